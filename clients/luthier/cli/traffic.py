"""luthier traffic set | show"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.session import Group, Session
from luthier.inference.v1.deployment_pb2 import Deployment

if TYPE_CHECKING:
    from luthier.client import AsyncClient

SLOTS = ("live", "candidate", "previous")


@click.group(cls=Group)
def traffic() -> None:
    """Traffic of a deployment: which revisions answer, and a mirror that answers copies."""


@traffic.command("set")
@click.argument("name")
@click.argument("shares", nargs=-1, metavar="[REVISION=WEIGHT]...")
@click.option(
    "--mirror",
    metavar="REVISION",
    default="",
    help="Also answers a copy of each request, after the caller has its answer.",
)
def set_(session: Session, *, name: str, shares: tuple[str, ...], mirror: str) -> None:
    """Split the requests of deployment NAME over its revisions; without shares all go to the live one.

    REVISION: `live`, `candidate`, `previous`, `ADAPTER/REVISION`, or a resource name. A session stays on one revision.
    """
    typed = [_parsed(share) for share in shares]
    session.adopt(name, mirror, *(revision for revision, _ in typed))
    resource = session.name("deployment", name)

    async def work(client: AsyncClient) -> Deployment:
        found = await client.deployments.get(resource)
        weights = {_revision(session, found, revision): weight for revision, weight in typed}
        chosen = _revision(session, found, mirror) if mirror else ""
        return await client.deployments.set_traffic(resource, weights, mirror_revision=chosen, etag=found.etag)

    _show(session, session.run(work))


@traffic.command("show")
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Show how the requests of deployment NAME are split."""
    resource = session.name("deployment", name)
    _show(session, session.run(lambda client: client.deployments.get(resource)))


def _parsed(share: str) -> tuple[str, int]:
    revision, equals, weight = share.rpartition("=")
    if not (equals and revision and weight.isdecimal()):
        raise click.BadParameter(f"'{share}' is not of the form REVISION=WEIGHT, e.g. candidate=10")
    return revision, int(weight)


def _revision(session: Session, found: Deployment, typed: str) -> str:
    """An adapter revision's name from what was typed."""
    if typed in SLOTS:
        if not found.HasField(typed):  # type: ignore[arg-type]
            raise click.BadParameter(f"{found.name} has no {typed} revision")
        return str(getattr(found, typed).adapter_revision)
    if "/" not in typed:
        raise click.BadParameter(f"'{typed}' must be {', '.join(SLOTS)} or ADAPTER/REVISION")
    adapter, _, revision = typed.partition("/")
    whole = typed if typed.startswith("tenants/") else f"{session.parent}/adapters/{adapter}/revisions/{revision}"
    return session.name("adapter_revision", whole)


def _show(session: Session, found: Deployment) -> None:
    if session.as_json:
        session.emit(found)
        return
    weights = {one.adapter_revision: one.weight for one in found.traffic}
    if not weights and found.HasField("live"):
        weights[found.live.adapter_revision] = 1
    total = sum(weights.values())
    rows = []
    for slot in SLOTS:
        if found.HasField(slot):  # type: ignore[arg-type]
            revision = getattr(found, slot).adapter_revision
            weight = weights.pop(revision, 0)  # a revision in two slots shows its share once
            share = f"{100 * weight / total:.1f} %" if total else ""
            rows.append((revision, slot, weight, share, "mirror" if revision == found.mirror_revision else ""))
    session.table(["revision", "slot", "#weight", "#share", "copies"], rows, title=found.name)
