"""luthier storage"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from luthier.cli.durations import seconds
from luthier.cli.session import Command, Session
from luthier.display import size, to_document, when
from luthier.services import SERVICES
from luthier.storage.v1.storage_service_pb2 import GetStorageResponse, SweepStorageResponse

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.command(cls=Command)
@click.option("--sweep", is_flag=True, help="Delete what nothing needs any more, instead of only counting it.")
@click.option("--grace", metavar="TIME", help="How old it must be, e.g. 10m, at least 1m. Default: as configured, 24h.")
def storage(session: Session, *, sweep: bool, grace: str | None) -> None:
    """Show what holds the disk, and what a sweep frees. Needs the scope storage.admin."""
    grace_s = None if grace is None else seconds(grace, option="--grace")
    found, swept = session.run(lambda client: _ask(client, sweep=sweep, grace_s=grace_s))
    if session.as_json:
        documents = {name: to_document(one) | {"sweep": to_document(swept[name])} for name, one in found.items()}
        session.emit({"services": documents, "swept": sweep})
        return
    rows = [
        (service, entry.kind, entry.name or "all others", size(entry.size_bytes))
        for service, one in found.items()
        for entry in one.entries
        if entry.size_bytes
    ]
    session.table(["service", "kind", "what", "#size"], rows)
    freed = [(service, entry.kind, size(entry.size_bytes)) for service, one in swept.items() for entry in one.freed]
    click.echo(f"blob store: {size(max(one.store_size_bytes for one in found.values()))} in all")
    title = "swept" if sweep else "the next sweep frees"
    if freed:
        session.table(["service", "kind", "#size"], freed, title=title)
    oldest = min((one.cutoff_time for one in swept.values()), key=lambda time: time.seconds)
    click.echo(f"{'nothing to sweep; ' if not freed else ''}nothing younger than {when(oldest)} UTC is swept")
    if not sweep:
        session.note(
            f"sweep now: luthier storage --sweep{f' --grace {grace}' if grace else '; younger things too: --grace 1m'}"
        )


async def _ask(
    client: AsyncClient, *, sweep: bool, grace_s: float | None
) -> tuple[dict[str, GetStorageResponse], dict[str, SweepStorageResponse]]:
    """Of every service, what it holds and what is (or would be) swept."""

    async def held() -> dict[str, GetStorageResponse]:
        found = await asyncio.gather(*map(client.storage.get, SERVICES))
        return dict(zip(SERVICES, found, strict=True))

    before = await held()  # first: a sweep waits long for a service that does not answer
    swept = {name: await client.storage.sweep(name, validate_only=not sweep, grace_s=grace_s) for name in SERVICES}
    return await held() if sweep else before, swept
