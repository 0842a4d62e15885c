"""luthier adapters list"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.trainer.v1.adapter_pb2 import AdapterRevision


@click.group(cls=Group)
def adapters() -> None:
    """Adapters and their immutable revisions."""


@adapters.command("list")
@click.argument("name", required=False)
def list_(session: Session, *, name: str | None) -> None:
    """List the revisions of all adapters, or of adapter NAME, newest first."""
    from luthier.display import size, to_document, when

    session.adopt(name)

    async def work(client: AsyncClient) -> list[AdapterRevision]:
        if name is not None:
            parents = [session.name("adapter", name)]
        else:
            parents = [adapter.name async for adapter in client.adapters.list(session.parent)]
        return [revision for parent in parents async for revision in client.adapters.list_revisions(parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"revisions": [to_document(one) for one in found]})
        return
    session.table(
        ["revision", "created (UTC)", "base", "dataset", "#rank", "#validation loss", "#size", "sha256"],
        [
            (
                one.name,
                when(one.create_time),
                one.base_model,
                one.dataset_revision,
                one.rank,
                f"{one.validation_loss:.3f}",
                size(one.size_bytes),
                one.sha256[:12],
            )
            for one in found
        ],
    )


async def latest_revision(client: AsyncClient, session: Session, value: str) -> str:
    """An adapter revision from `ID/REVISION`, a resource name, or an adapter (its newest revision)."""
    from luthier import names
    from luthier.errors import NotFoundError

    if value.startswith("tenants/"):
        parsed = names.parse(value)
        if parsed.kind != "adapter":
            return str(names.parse_as(value, "adapter_revision"))
        adapter = value
    else:
        adapter_id, separator, revision_id = value.partition("/")
        if separator:
            return names.adapter_revision(session.tenant, adapter_id, revision_id)
        adapter = names.adapter(session.tenant, adapter_id)
    async for revision in client.adapters.list_revisions(adapter, page_size=1):
        return revision.name
    raise NotFoundError(
        f"{adapter} has no revision; train one with `luthier train {names.parse(adapter).id} --base M --dataset D`",
        reason="NO_REVISION",
        metadata={"adapter": adapter},
    )
