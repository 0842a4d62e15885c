"""luthier capture show | set | list"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.inference.v1.feedback_pb2 import CaptureFile, CapturePolicy

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group(cls=Group)
def capture() -> None:
    """Whether the tenant's prompts and answers are kept."""


@capture.command()
def show(session: Session) -> None:
    """Show the tenant's policy."""
    _show(session, session.run(lambda client: client.captures.get_policy(session.parent)))


@capture.command("set")
@click.option("--on/--off", "enabled", default=None, help="Keep prompts and answers. Off deletes what was kept.")
@click.option("--retention", metavar="SPAN", help="How long they are kept, e.g. 30d, 12h.")
@click.option("--sample-rate", type=float, metavar="SHARE", help="Share of answers to keep, above 0 to 1.")
@click.option("--etag", default="", help="The policy's etag as you know it; else not checked.")
def set_(
    session: Session, *, enabled: bool | None, retention: str | None, sample_rate: float | None, etag: str
) -> None:
    """Change the tenant's policy; what is not given stays as it is. Texts are redacted before they are written."""
    if enabled is None and retention is None and sample_rate is None:
        raise click.UsageError("there is nothing to change; give --on, --off, --retention or --sample-rate")
    retention_s = None if retention is None else seconds(retention)

    async def work(client: AsyncClient) -> CapturePolicy:
        return await client.captures.update_policy(
            session.parent, enabled=enabled, retention_s=retention_s, sample_rate=sample_rate, etag=etag
        )

    _show(session, session.run(work))


@capture.command("list")
def list_(session: Session) -> None:
    """List the tenant's capture files, oldest first."""
    from luthier.display import size, to_document, when

    async def work(client: AsyncClient) -> list[CaptureFile]:
        return [found async for found in client.captures.list(session.parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"capture_files": [to_document(one) for one in found]})
        return
    rows = [
        (one.name, to_document(one)["kind"].lower(), f"{one.row_count:,}", size(one.size_bytes), when(one.create_time))
        for one in found
    ]
    session.table(["name", "kind", "#rows", "#size", "written (UTC)"], rows)


def seconds(span: str) -> float:
    """`30d`, `12h`, `90m` or `3600s` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", span.strip())
    if match is None:
        raise click.BadParameter(f"'{span}' is not a span; write a number and s, m, h or d, e.g. 30d")
    return float(match[1]) * UNITS_S[match[2]]


def _show(session: Session, policy: CapturePolicy) -> None:
    from luthier.display import to_document

    if session.as_json:
        session.emit(to_document(policy))
        return
    days = policy.retention.ToSeconds() / 86400
    click.echo(f"{policy.name}: {'on' if policy.enabled else 'off'}, kept {days:g} days, sample {policy.sample_rate:g}")
    if not policy.enabled:
        session.note("nothing is kept but who answered and when; switch it on: luthier capture set --on")
