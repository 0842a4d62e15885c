"""luthier model import | list | delete"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier import names
from luthier.cli.deletion import add_delete, named
from luthier.cli.following import follow
from luthier.cli.session import Group, Session
from luthier.display import size, state_of
from luthier.trainer.v1.base_model_pb2 import BaseModel

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.group(cls=Group)
def model() -> None:
    """Base models, on which adapters are trained. Shared by all tenants."""


@model.command("import")
@click.argument("name")
@click.option("--path", metavar="DIR", help="A Hugging Face checkpoint folder on the trainer's machine.")
@click.option("--package", metavar="PACKAGE", help="An installed Python package that contains a GGUF model.")
@click.option("--hub", metavar="ORG/MODEL", help="A repository of the hub that the trainer is configured for.")
@click.option("--revision", metavar="R", help="With --hub: a branch, a tag or a commit. Default: main.")
@click.option("--detach", is_flag=True, help="Do not wait for the import.")
def import_(
    session: Session,
    *,
    name: str,
    path: str | None,
    package: str | None,
    hub: str | None,
    revision: str | None,
    detach: bool,
) -> None:
    """Import a base model under NAME and wait until it is READY."""
    if sum(source is not None for source in (path, package, hub)) != 1 or (revision and not hub):
        problem = "name exactly one of --path, --package and --hub; --revision goes with --hub"
        raise click.UsageError(problem, ctx=click.get_current_context())
    resource = session.name("base_model", name)
    folder = None if path is None else str(pathlib.Path(path).expanduser().absolute())

    async def work(client: AsyncClient) -> BaseModel:
        found = await client.base_models.import_model(
            names.parse(resource).id, path=folder, package=package, hub=hub, revision=revision or ""
        )
        if not detach and state_of(found) != "READY":
            found = await follow(client, session, found.name)
        return found

    found = session.run(work)
    if session.as_json:
        session.emit(found, event="result")
        return
    click.echo(found.name)
    if not detach:
        session.note(
            f"{found.architecture}, {found.parameter_count / 1e6:.0f} million parameters, window "
            f"{found.context_window_tokens:,} tokens, {size(found.size_bytes)}, sha256 {found.sha256[:12]}"
        )


@model.command("list")
def list_(session: Session) -> None:
    """List the base models."""
    session.show_list(
        "base_models",
        lambda client: client.base_models.list(),
        {
            "name": lambda one: one.name,
            "state": state_of,
            "architecture": lambda one: one.architecture,
            "#parameters": lambda one: f"{one.parameter_count:,}",
            "#window": lambda one: f"{one.context_window_tokens:,}",
            "#size": lambda one: size(one.size_bytes),
            "sha256": lambda one: one.sha256[:12],
            "source": lambda one: one.source,
        },
    )


add_delete(model, named("base_model"), "Delete base model NAME, which no adapter needs.")
