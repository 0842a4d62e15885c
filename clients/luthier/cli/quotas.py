"""luthier quota show | list | set"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.session import Command, Group, Session

if TYPE_CHECKING:
    from luthier import AsyncClient
    from luthier.inference.v1.quota_pb2 import Quota

# Field of QuotaLimits: what it limits, for people; the use of it, where it is counted.
LIMITS = {
    "requests_per_minute": ("requests a minute", "requests_in_minute"),
    "tokens_per_minute": ("tokens a minute", "tokens_in_minute"),
    "concurrent_requests": ("requests in flight", "running_requests"),
    "deployed_adapters": ("adapters deployed", "deployed_adapters"),
    "weight": ("weight", ""),
}


@click.group(cls=Group)
def quota() -> None:
    """What a tenant may take of the inference service."""


@quota.command(cls=Command)
def show(session: Session) -> None:
    """Show the tenant's limits, and what it uses of them now."""
    name = f"{session.parent}/quota"
    _show_one(session, session.run(lambda client: client.quotas.get(name)))


@quota.command(name="list", cls=Command)
def list_quotas(session: Session) -> None:
    """List the quotas of all tenants that have limits of their own or deployments. Needs the scope inference.admin."""
    from luthier.display import to_document

    async def work(client: AsyncClient) -> list[Quota]:
        return [found async for found in client.quotas.list()]

    found = session.run(work)
    if session.as_json:
        session.emit({"quotas": [to_document(one) for one in found]})
        return
    rows = [(one.name.split("/")[1], *(_cell(one, field) for field in LIMITS)) for one in found]
    session.table(["tenant", *(f"#{text}" for text, _ in LIMITS.values())], rows, title="used / limit")


@quota.command(name="set", cls=Command)
@click.option(
    "--requests-per-minute", type=click.IntRange(0), metavar="N", help="0: no limit. The same for the next three."
)
@click.option("--tokens-per-minute", type=click.IntRange(0), metavar="N", help="Tokens of prompts and answers.")
@click.option("--concurrent-requests", type=click.IntRange(0), metavar="N", help="Running and waiting.")
@click.option("--deployed-adapters", type=click.IntRange(0), metavar="N", help="Different ones, live or staged.")
@click.option("--weight", type=click.FloatRange(0.01, 100), metavar="W", help="Share beside other tenants; default 1.")
@click.option("--reset", type=click.Choice(list(LIMITS)), multiple=True, help="Back to the default; may be repeated.")
def set_quota(session: Session, *, reset: tuple[str, ...], **limits: float | None) -> None:
    """Change the tenant's limits, from the next request on. Needs the scope inference.admin."""
    from luthier.inference.v1.quota_pb2 import QuotaLimits

    given = {name: value for name, value in limits.items() if value is not None}
    if not given and not reset:
        raise click.UsageError("name at least one limit to set or to --reset")
    if both := sorted(set(given) & set(reset)):
        raise click.UsageError(f"{both[0]} cannot be set and reset at once")
    name = f"{session.parent}/quota"
    wanted = QuotaLimits(**given)  # type: ignore[arg-type] # click has checked them
    _show_one(session, session.run(lambda client: client.quotas.update(name, wanted, reset=reset)))


def _show_one(session: Session, found: Quota) -> None:
    from luthier.display import to_document

    if session.as_json:
        session.emit(to_document(found))
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
    session.table(["limit", "#value", "#used", "from"], rows, title=f"{found.name}{times}")


def _cell(found: Quota, field: str) -> str:
    """What is used of a limit, and the limit."""
    limit, use = getattr(found.effective_limits, field), LIMITS[field][1]
    return f"{getattr(found.usage, use)} / {f'{limit:g}' if limit else '-'}" if use else f"{limit:g}"
