"""luthier quota show | list | set"""

from __future__ import annotations

import click

from luthier.cli.session import Group, Session
from luthier.inference.v1.quota_pb2 import Quota, QuotaLimits

LIMITS = {
    "requests_per_minute": ("requests a minute", "requests_in_minute"),
    "tokens_per_minute": ("tokens a minute", "tokens_in_minute"),
    "concurrent_requests": ("requests in flight", "running_requests"),
    "deployed_adapters": ("adapters deployed", "deployed_adapters"),
    "weight": ("weight", ""),
}
"""Field of QuotaLimits: its name for people, and the field of QuotaUsage that counts its use."""


@click.group(cls=Group)
def quota() -> None:
    """Limits of a tenant in the inference service."""


@quota.command()
def show(session: Session) -> None:
    """Show the tenant's limits and current usage."""
    name = f"{session.parent}/quota"
    _show_one(session, session.run(lambda client: client.quotas.get(name)))


@quota.command("list")
def list_quotas(session: Session) -> None:
    """List the quotas of all tenants that have custom limits or deployments. Needs the scope inference.admin."""
    limits = {f"#{text}": lambda one, field=field: _cell(one, field) for field, (text, _) in LIMITS.items()}
    session.show_list(
        "quotas",
        lambda client: client.quotas.list(),
        {"tenant": lambda one: one.name.split("/")[1], **limits},
        title="used / limit",
    )


@quota.command("set")
@click.option(
    "--requests-per-minute", type=click.IntRange(0), metavar="N", help="0: no limit; also for the next three."
)
@click.option("--tokens-per-minute", type=click.IntRange(0), metavar="N", help="Tokens of prompts and answers.")
@click.option("--concurrent-requests", type=click.IntRange(0), metavar="N", help="Running and waiting requests.")
@click.option("--deployed-adapters", type=click.IntRange(0), metavar="N", help="Distinct adapters, live or staged.")
@click.option(
    "--weight", type=click.FloatRange(0.01, 100), metavar="W", help="Share relative to other tenants. Default 1."
)
@click.option("--reset", type=click.Choice(list(LIMITS)), multiple=True, help="Back to the default; may be repeated.")
def set_quota(session: Session, *, reset: tuple[str, ...], **limits: float | None) -> None:
    """Change the tenant's limits, effective with the next request. Needs the scope inference.admin."""
    given = {name: value for name, value in limits.items() if value is not None}
    if not given and not reset:
        raise click.UsageError("name at least one limit to set or to --reset")
    if both := sorted(set(given) & set(reset)):
        raise click.UsageError(f"{both[0]} cannot be both set and reset")
    name = f"{session.parent}/quota"
    wanted = QuotaLimits(**given)  # type: ignore[arg-type] # click has checked them
    _show_one(session, session.run(lambda client: client.quotas.update(name, wanted, reset=reset)))


def _show_one(session: Session, found: Quota) -> None:
    if session.as_json:
        session.emit(found)
        return
    own = {field.name for field, _ in found.limits.ListFields()}
    rows = []
    for field, (text, use) in LIMITS.items():
        limit = getattr(found.effective_limits, field)
        used = str(getattr(found.usage, use)) if use else ""
        if field == "concurrent_requests":
            used = f"{found.usage.running_requests} + {found.usage.waiting_requests} waiting"
        rows.append((text, f"{limit:g}" if limit else "no limit", used, "set" if field in own else "default"))
    times = f", in each of {found.replica_count} replicas" if found.replica_count > 1 else ""
    session.table(["limit", "#value", "#used", "source"], rows, title=f"{found.name}{times}")


def _cell(found: Quota, field: str) -> str:
    """The use of a limit, and the limit."""
    limit, use = getattr(found.effective_limits, field), LIMITS[field][1]
    return f"{getattr(found.usage, use)} / {f'{limit:g}' if limit else '-'}" if use else f"{limit:g}"
