"""luthier adapters list | import | export | delete"""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from luthier.cli.deletion import add_delete
from luthier.cli.files import PATH
from luthier.cli.following import follow_new
from luthier.cli.progress import Progress
from luthier.cli.revisions import adapter_or_revision, adapter_revision
from luthier.cli.session import Group, Session
from luthier.display import size, when
from luthier.trainer.v1.adapter_import_pb2 import AdapterImport
from luthier.trainer.v1.adapter_pb2 import AdapterRevision

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.group(cls=Group)
def adapters() -> None:
    """Adapters and their immutable revisions."""


@adapters.command("list")
@click.argument("name", required=False)
def list_(session: Session, *, name: str | None) -> None:
    """List the revisions of all adapters, or of adapter NAME, newest first."""
    session.adopt(name)

    async def revisions(client: AsyncClient) -> AsyncIterator[AdapterRevision]:
        if name is not None:
            parents = [session.name("adapter", name)]
        else:
            parents = [adapter.name async for adapter in client.adapters.list(session.parent)]
        for parent in parents:
            async for revision in client.adapters.list_revisions(parent):
                yield revision

    session.show_list(
        "revisions",
        revisions,
        {
            "revision": lambda one: one.name,
            "created (UTC)": lambda one: when(one.create_time),
            "base": lambda one: one.base_model,
            "made from": lambda one: one.dataset_revision or one.adapter_import,
            "#rank": lambda one: one.rank,
            "#validation loss": lambda one: f"{one.validation_loss:.3f}",
            "#size": lambda one: size(one.size_bytes),
            "sha256": lambda one: one.sha256[:12],
        },
    )


@adapters.command("import")
@click.argument("name")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--base", required=True, metavar="M", help="The model it was trained on: an id or baseModels/M.")
@click.option("--detach", is_flag=True, help="Do not wait for the import.")
def import_(session: Session, *, name: str, folder: pathlib.Path, base: str, detach: bool) -> None:
    """Import a LoRA adapter that PEFT saved in DIR as the next revision of adapter NAME.

    Weights must be safetensors. An interrupted upload goes on where it stopped.
    """
    adapter, base_model = session.name("adapter", name), session.name("base_model", base)

    async def work(client: AsyncClient) -> AdapterImport:
        with Progress(session, "sending") as progress:

            def sent(file: str, held_bytes: int, size_bytes: int) -> None:
                progress.update(f"sending {file}", done=held_bytes, total=size_bytes)

            created = await client.adapter_imports.create(adapter, folder, base_model=base_model, on_sent=sent)
        found: AdapterImport = await follow_new(client, session, created, wait=not detach)
        return found

    found = session.run(work)
    if session.as_json:
        session.emit(found, **({} if detach else {"event": "result"}))
    elif detach:
        click.echo(found.name)
        session.note(f"watch it: luthier jobs watch {found.name}")
    else:
        click.echo(found.adapter_revision)
        for note in found.notes:
            session.note(f"note: {note}")
        session.note(f"next: luthier evaluate {found.adapter_revision} --dataset D")


@adapters.command()
@click.argument("revision")
@click.argument("folder", type=PATH, metavar="DIR")
def export(session: Session, *, revision: str, folder: pathlib.Path) -> None:
    """Write the files of an adapter revision into a new folder DIR, from which PEFT loads it.

    REVISION: `ID/REVISION`, a resource name, or ID (latest). Digests are checked; nothing is overwritten.
    """
    session.adopt(revision)

    async def work(client: AsyncClient) -> AdapterRevision:
        name = await adapter_revision(client, session, revision)
        with Progress(session, "receiving") as progress:

            def received(file: str, held_bytes: int, size_bytes: int) -> None:
                progress.update(f"receiving {file}", done=held_bytes, total=size_bytes)

            return await client.adapters.export(name, folder, on_received=received)

    found = session.run(work)
    if session.as_json:
        session.emit({"revision": found.name, "folder": str(folder), "sha256": found.sha256})
    else:
        click.echo(folder)
        session.note(f"{found.name}, {size(found.size_bytes)}; load it on {found.base_model}")


add_delete(adapters, adapter_or_revision, "Delete adapter NAME, or its revision NAME/R that is not deployed.")
