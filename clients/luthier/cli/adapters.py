"""luthier adapters list | delete"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from luthier.cli.deletion import add_delete
from luthier.cli.revisions import adapter_or_revision
from luthier.cli.session import Group, Session
from luthier.display import size, when
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
            "dataset": lambda one: one.dataset_revision,
            "#rank": lambda one: one.rank,
            "#validation loss": lambda one: f"{one.validation_loss:.3f}",
            "#size": lambda one: size(one.size_bytes),
            "sha256": lambda one: one.sha256[:12],
        },
    )


add_delete(adapters, adapter_or_revision, "Delete adapter NAME, or its revision NAME/R that is not deployed.")
