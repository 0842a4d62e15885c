"""luthier deploy | promote | rollback | pin | unpin | prefetch | undeploy | deployments"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.session import Command, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.inference.v1.deployment_pb2 import Deployment, LoadedAdapter


@click.command(cls=Command)
@click.argument("name")
@click.argument("adapter_revision")
@click.option("--stage", is_flag=True, help="Load and prove it, but leave the live one until `luthier promote`.")
def deploy(session: Session, *, name: str, adapter_revision: str, stage: bool) -> None:
    """Verify, load and prove ADAPTER_REVISION and make it live under NAME, while requests run.

    ADAPTER_REVISION: `ID/REVISION`, a resource name, or ID (latest).
    """
    from luthier.cli.adapters import latest_revision
    from luthier.cli.progress import Progress

    session.adopt(name, adapter_revision)
    resource = session.name("deployment", name)

    async def work(client: AsyncClient) -> Deployment:
        revision = await latest_revision(client, session, adapter_revision)
        with Progress(session, f"deploying {revision}") as progress:
            progress.update(f"deploying {revision}")
            return await client.deployments.deploy(resource, adapter_revision=revision, stage_only=stage)

    _show_one(session, session.run(work))


@click.command(cls=Command)
@click.argument("name")
def promote(session: Session, *, name: str) -> None:
    """Make the staged revision of deployment NAME live."""
    resource = session.name("deployment", name)
    _show_one(session, session.run(lambda client: client.deployments.promote(resource)))


@click.command(cls=Command)
@click.argument("name")
def rollback(session: Session, *, name: str) -> None:
    """Make the previous revision of deployment NAME live again."""
    resource = session.name("deployment", name)
    _show_one(session, session.run(lambda client: client.deployments.rollback(resource)))


@click.command(cls=Command)
@click.argument("name")
def pin(session: Session, *, name: str) -> None:
    """Keep the adapters of deployment NAME in memory; others are loaded again when they are asked for."""
    resource = session.name("deployment", name)
    _show_one(session, session.run(lambda client: client.deployments.pin(resource)))


@click.command(cls=Command)
@click.argument("name")
def unpin(session: Session, *, name: str) -> None:
    """Let the adapters of deployment NAME make room for others while nobody asks for them."""
    resource = session.name("deployment", name)
    _show_one(session, session.run(lambda client: client.deployments.pin(resource, pinned=False)))


@click.command(cls=Command)
@click.argument("name")
def prefetch(session: Session, *, name: str) -> None:
    """Load what requests to deployment NAME go to, so that none of them waits for it."""
    resource = session.name("deployment", name)
    _show_one(session, session.run(lambda client: client.deployments.prefetch(resource)))


@click.command(cls=Command)
@click.argument("name")
def undeploy(session: Session, *, name: str) -> None:
    """Remove deployment NAME. Requests in flight finish."""
    resource = session.name("deployment", name)
    session.run(lambda client: client.deployments.delete(resource))
    if session.as_json:
        session.emit({"name": resource, "deleted": True})
    else:
        click.echo(f"{resource}: removed")


@click.command(cls=Command)
def deployments(session: Session) -> None:
    """List the tenant's deployments."""
    from luthier.display import to_document, when

    async def work(client: AsyncClient) -> list[Deployment]:
        return [found async for found in client.deployments.list(session.parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"deployments": [to_document(one) for one in found]})
        return
    rows = [
        (
            one.name + (" (pinned)" if one.pinned else ""),
            one.revision,
            _text(one.live),
            _parity(one.live),
            _text(one.candidate),
            _text(one.previous),
            when(one.update_time),
        )
        for one in found
    ]
    columns = ["name", "#revision", "live", "parity, nats", "candidate", "previous", "changed (UTC)"]
    session.table(columns, rows)


def _show_one(session: Session, found: Deployment) -> None:
    from luthier.display import to_document, when

    if session.as_json:
        session.emit(to_document(found))
        return
    click.echo(f"{found.name}: revision {found.revision}, live {_text(found.live) or 'nothing'}")
    shown = found.candidate if found.HasField("candidate") else found.live
    if shown.HasField("certificate"):
        certificate = shown.certificate
        click.echo(
            f"parity: {_parity(shown)} nats a token off the training ({certificate.row_count} rows, "
            f"{certificate.token_count} tokens), effect {certificate.effect_mean_nats:.3f}, "
            f"{certificate.engine_version}, {when(certificate.check_time)} UTC"
        )
    if shown.load_stages:
        stages = (f"{one.name} {one.duration.ToMicroseconds() / 1e6:.3f}" for one in shown.load_stages)
        click.echo(f"stages, s: {', '.join(stages)}")
    if found.HasField("candidate"):
        session.note(f"candidate {_text(found.candidate)}; make it live: luthier promote {found.name}")
    if found.HasField("previous"):
        session.note(f"previous {_text(found.previous)}; go back: luthier rollback {found.name}")


def _parity(loaded_adapter: LoadedAdapter) -> str:
    """How far the engine is off the training, and how far it may be; empty without a certificate."""
    if not loaded_adapter.HasField("certificate"):
        return ""
    found = loaded_adapter.certificate
    if not found.row_count:
        return "no record of the training"
    return f"{found.deviation_mean_nats:.2g} of {found.tolerance_nats:g}"


def _text(loaded_adapter: LoadedAdapter) -> str:
    """The adapter revision behind a loaded adapter, with its state unless it is READY."""
    from luthier.display import to_document

    if not loaded_adapter.id:
        return ""
    state = str(to_document(loaded_adapter)["state"])
    short = "/".join(loaded_adapter.adapter_revision.split("/")[-3::2])
    return f"{short} ({loaded_adapter.adapter_sha256[:8]})" + ("" if state == "READY" else f" {state}")
