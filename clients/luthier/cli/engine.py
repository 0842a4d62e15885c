"""luthier engine use | show"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli.durations import seconds
from luthier.cli.session import Group, Session
from luthier.display import state_of
from luthier.inference.v1.engine_service_pb2 import Engine

if TYPE_CHECKING:
    from luthier.client import AsyncClient

TIMEOUT_S = 900.0
"""A large model takes minutes to load from a cold disk."""


@click.group(cls=Group)
def engine() -> None:
    """The engine of the inference service, which serves one base model to all tenants."""


@engine.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="Even if deployments need the current base model; they stop answering.")
@click.option("--drain", default="30s", show_default=True, metavar="TIME", help="For calls in flight to end.")
@click.option("--detach", is_flag=True, help="Do not wait until the engine is ready.")
def use(session: Session, *, model: str, force: bool, drain: str, detach: bool) -> None:
    """Serve the base model MODEL. For operators: needs the scope inference.admin."""
    name = session.name("base_model", model)
    drain_s = seconds(drain, option="--drain")

    async def work(client: AsyncClient) -> Engine:
        started = await client.engine.start(name, force=force, drain_timeout_s=drain_s)
        return started if detach else await client.engine.wait_ready(timeout_s=TIMEOUT_S + drain_s)

    session.show(session.run(work), lambda found: _print(session, found))


@engine.command()
def show(session: Session) -> None:
    """Show the engine's base model and state."""
    session.show(session.run(lambda client: client.engine.get()), lambda found: _print(session, found))


def _print(session: Session, found: Engine) -> None:
    click.echo(f"{found.base_model or 'no base model'}  {state_of(found)}")
    if found.error.message:
        click.echo(found.error.message)
    if found.version:
        session.note(f"{found.version}, started in {found.start_duration.ToMilliseconds() / 1000:.1f} s")
