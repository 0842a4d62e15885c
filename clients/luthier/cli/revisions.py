"""Dataset and adapter revisions from what a person types: `ID/REVISION`, a resource name, or an id for the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier import names
from luthier.cli.session import Session
from luthier.errors import NotFoundError

if TYPE_CHECKING:
    from luthier.client import AsyncClient


def dataset_or_revision(session: Session, value: str) -> str:
    """The resource name of a dataset or of a dataset revision."""
    return _name(session, value, "dataset")


async def dataset_revision(client: AsyncClient, session: Session, value: str) -> str:
    """The name of a dataset revision; of a dataset, its newest revision that is READY."""
    name = _name(session, value, "dataset")
    if names.parse(name).kind == "dataset_revision":
        return name
    if latest := (await client.datasets.get(name)).latest_revision:
        return latest
    raise NotFoundError(
        f"{name} has no revision that is READY; make one with `luthier dataset curate {names.parse(name).id}`",
        reason="NO_REVISION",
        metadata={"dataset": name},
    )


def adapter_or_revision(session: Session, value: str) -> str:
    """The resource name of an adapter or of an adapter revision."""
    return _name(session, value, "adapter")


async def adapter_revision(client: AsyncClient, session: Session, value: str) -> str:
    """The name of an adapter revision; of an adapter, its newest revision."""
    name = _name(session, value, "adapter")
    if names.parse(name).kind == "adapter_revision":
        return name
    async for revision in client.adapters.list_revisions(name, page_size=1):
        return revision.name
    raise NotFoundError(
        f"{name} has no revision; train one with `luthier train {names.parse(name).id} --base M --dataset D`",
        reason="NO_REVISION",
        metadata={"adapter": name},
    )


def _name(session: Session, value: str, kind: str) -> str:
    session.adopt(value)
    if value.startswith("tenants/"):
        parsed = names.parse(value)
        return str(parsed if parsed.kind == kind else names.parse_as(value, f"{kind}_revision"))
    parent_id, separator, revision_id = value.partition("/")
    if separator:
        return names.build(f"{kind}_revision", session.tenant, parent_id, revision_id)
    return names.build(kind, session.tenant, parent_id)
