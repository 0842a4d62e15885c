"""luthier storage"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from luthier.cli.session import Command, Session
from luthier.display import size, to_document, when
from luthier.services import SERVICES
from luthier.storage.v1.storage_service_pb2 import GetStorageResponse, SweepStorageResponse

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.command(cls=Command)
@click.option("--sweep", is_flag=True, help="Delete what nothing needs any more, instead of only counting it.")
def storage(session: Session, *, sweep: bool) -> None:
    """Show what holds the disk, and what a sweep frees. Needs the scope storage.admin."""
    found, swept = session.run(lambda client: _ask(client, sweep=sweep))
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
    if freed and not sweep:
        session.note("sweep now: luthier storage --sweep")


async def _ask(
    client: AsyncClient, *, sweep: bool
) -> tuple[dict[str, GetStorageResponse], dict[str, SweepStorageResponse]]:
    """Of every service, what it holds and what is (or would be) swept."""

    async def held() -> dict[str, GetStorageResponse]:
        found = await asyncio.gather(*map(client.storage.get, SERVICES))
        return dict(zip(SERVICES, found, strict=True))

    before = await held()  # first: a sweep waits long for a service that does not answer
    swept = {name: await client.storage.sweep(name, validate_only=not sweep) for name in SERVICES}
    return await held() if sweep else before, swept
