"""luthier capture show | set | list | delete"""

from __future__ import annotations

from typing import Any

import click

from luthier.cli.durations import seconds
from luthier.cli.session import Group, Session
from luthier.display import enum_name, size, when
from luthier.inference.v1.feedback_pb2 import CapturePolicy


@click.group(cls=Group)
def capture() -> None:
    """Whether the tenant's prompts and answers are stored."""


@capture.command()
def show(session: Session) -> None:
    """Show the tenant's policy."""
    _show(session, session.run(lambda client: client.captures.get_policy(session.parent)))


@capture.command("set")
@click.option("--on/--off", "enabled", default=None, help="Store prompts and answers. Off deletes everything stored.")
@click.option("--retention", metavar="TIME", help="How long they are kept, e.g. 30d, 12h.")
@click.option("--sample-rate", type=float, metavar="SHARE", help="Share of answers to store, above 0 to 1.")
@click.option("--etag", default="", help="The policy's etag, as last read. Default: not checked.")
def set_(
    session: Session, *, enabled: bool | None, retention: str | None, sample_rate: float | None, etag: str
) -> None:
    """Change the tenant's policy; options not given stay as they are. Texts are redacted before they are written."""
    retention_s = None if retention is None else seconds(retention, option="--retention")
    changes: dict[str, Any] = {"enabled": enabled, "retention_s": retention_s, "sample_rate": sample_rate}
    if all(value is None for value in changes.values()):
        raise click.UsageError("there is nothing to change; give --on, --off, --retention or --sample-rate")
    _show(session, session.run(lambda client: client.captures.update_policy(session.parent, etag=etag, **changes)))


@capture.command("list")
def list_(session: Session) -> None:
    """List the tenant's capture files, oldest first."""
    session.show_list(
        "capture_files",
        lambda client: client.captures.list(session.parent),
        {
            "name": lambda one: one.name,
            "kind": lambda one: enum_name(one, "kind").lower(),
            "#rows": lambda one: f"{one.row_count:,}",
            "#size": lambda one: size(one.size_bytes),
            "written (UTC)": lambda one: when(one.create_time),
        },
    )


@capture.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(session: Session, *, name: str, yes: bool) -> None:
    """Delete capture file NAME at once."""
    session.adopt(name)
    resource = name if "/" in name else f"{session.parent}/captureFiles/{name}"
    if not yes:
        if session.as_json:
            raise click.UsageError("--json cannot ask; add --yes")
        click.confirm(f"delete {resource} for good?", abort=True, err=True)
    session.run(lambda client: client.captures.delete(resource))
    session.emit({"deleted": [resource]}) if session.as_json else click.echo(resource)


def _show(session: Session, policy: CapturePolicy) -> None:
    if session.as_json:
        session.emit(policy)
        return
    days = policy.retention.ToSeconds() / 86400
    click.echo(f"{policy.name}: {'on' if policy.enabled else 'off'}, kept {days:g} days, sample {policy.sample_rate:g}")
    if not policy.enabled:
        session.note("only who answered and when is stored; to store texts too: luthier capture set --on")
