"""luthier deploy | promote | rollback | pin | unpin | prefetch | undeploy | deployments"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from luthier.cli.progress import Progress
from luthier.cli.revisions import adapter_revision as adapter_revision_name
from luthier.cli.session import Command, Session
from luthier.display import enum_name, when
from luthier.inference.v1.deployment_pb2 import Deployment, LoadedAdapter
from luthier.resources.deployments import Deployments

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.command(cls=Command)
@click.argument("name")
@click.argument("adapter_revision")
@click.option("--stage", is_flag=True, help="Load and check it, but leave the live one until `luthier promote`.")
def deploy(session: Session, *, name: str, adapter_revision: str, stage: bool) -> None:
    """Verify, load and check ADAPTER_REVISION and make it live under NAME, while requests run.

    ADAPTER_REVISION: `ID/REVISION`, a resource name, or ID (latest).
    """
    session.adopt(name, adapter_revision)
    resource = session.name("deployment", name)

    async def work(client: AsyncClient) -> Deployment:
        revision = await adapter_revision_name(client, session, adapter_revision)
        with Progress(session, f"deploying {revision}") as progress:
            progress.update(f"deploying {revision}")
            return await client.deployments.deploy(resource, adapter_revision=revision, stage_only=stage)

    _show(session, session.run(work))


def _change(session: Session, name: str, call: Callable[[Deployments, str], Awaitable[Deployment]]) -> None:
    """Makes a call for the deployment `name` and shows the deployment."""
    resource = session.name("deployment", name)
    _show(session, session.run(lambda client: call(client.deployments, resource)))


@click.command(cls=Command)
@click.argument("name")
def promote(session: Session, *, name: str) -> None:
    """Make the staged revision of deployment NAME live."""
    _change(session, name, Deployments.promote)


@click.command(cls=Command)
@click.argument("name")
def rollback(session: Session, *, name: str) -> None:
    """Make the previous revision of deployment NAME live again."""
    _change(session, name, Deployments.rollback)


@click.command(cls=Command)
@click.argument("name")
def pin(session: Session, *, name: str) -> None:
    """Keep the adapters of deployment NAME in memory; other adapters are reloaded on demand."""
    _change(session, name, Deployments.pin)


@click.command(cls=Command)
@click.argument("name")
def unpin(session: Session, *, name: str) -> None:
    """Allow the adapters of deployment NAME to be evicted while they are idle."""
    _change(session, name, lambda deployments, resource: deployments.pin(resource, pinned=False))


@click.command(cls=Command)
@click.argument("name")
def prefetch(session: Session, *, name: str) -> None:
    """Load the adapters of deployment NAME now, so that no request waits for them."""
    _change(session, name, Deployments.prefetch)


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
    session.show_list(
        "deployments",
        lambda client: client.deployments.list(session.parent),
        {
            "name": lambda one: one.name + (" (pinned)" if one.pinned else ""),
            "#revision": lambda one: one.revision,
            "live": lambda one: _text(one.live),
            "parity, nats": lambda one: _parity(one.live),
            "candidate": lambda one: _text(one.candidate),
            "previous": lambda one: _text(one.previous),
            "changed (UTC)": lambda one: when(one.update_time),
        },
    )


def _show(session: Session, found: Deployment) -> None:
    if session.as_json:
        session.emit(found)
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
    """The engine's deviation from the training, and the tolerance; empty without a certificate."""
    if not loaded_adapter.HasField("certificate"):
        return ""
    found = loaded_adapter.certificate
    if not found.row_count:
        return "no record of the training"
    return f"{found.deviation_mean_nats:.2g} of {found.tolerance_nats:g}"


def _text(loaded_adapter: LoadedAdapter) -> str:
    """The adapter revision behind a loaded adapter, with its state unless it is READY."""
    if not loaded_adapter.id:
        return ""
    state = enum_name(loaded_adapter, "state")
    short = "/".join(loaded_adapter.adapter_revision.split("/")[-3::2])
    return f"{short} ({loaded_adapter.adapter_sha256[:8]})" + ("" if state == "READY" else f" {state}")
