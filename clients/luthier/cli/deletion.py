"""`delete` of every noun: it names what goes, asks, and deletes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from luthier import names
from luthier.cli.session import Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient

Resolve = Callable[[Session, str], str]
"""The resource name from what a person types."""


def add_delete(group: click.Group, resolve: Resolve, text: str) -> None:
    """Adds the command `delete NAME` with the help `text` to a group."""

    @group.command("delete", help=text)
    @click.argument("name")
    @click.option("--cascade", is_flag=True, help="Also delete its parts; finished work that names it stays.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def delete(session: Session, *, name: str, cascade: bool, yes: bool) -> None:
        _delete(session, resolve(session, name), cascade=cascade, yes=yes)


def named(kind: str) -> Resolve:
    """Names of one kind."""
    return lambda session, value: session.name(kind, value)


def _delete(session: Session, name: str, *, cascade: bool, yes: bool) -> None:
    if not yes:
        if session.as_json:
            raise click.UsageError("--json cannot ask; add --yes")
        planned = session.run(lambda client: _method(client, name)(name, cascade=cascade, validate_only=True))
        for one in planned.deleted:
            click.echo(f"  goes:  {one}", err=True)
        for one in planned.kept:
            click.echo(f"  stays: {one}, which names what goes", err=True)
        click.confirm(f"delete {len(planned.deleted)} for good?", abort=True, err=True)
    deleted = session.run(lambda client: _method(client, name)(name, cascade=cascade))
    if session.as_json:
        session.emit({"deleted": list(deleted.deleted), "kept": list(deleted.kept)})
    else:
        click.echo("\n".join(deleted.deleted))


def _method(client: AsyncClient, name: str) -> Any:
    """The method of the SDK for the kind of `name`."""
    nouns: dict[str, Any] = {
        "dataset": client.datasets.delete,
        "dataset_revision": client.datasets.delete_revision,
        "base_model": client.base_models.delete,
        "training_job": client.training_jobs.delete,
        "adapter_import": client.adapter_imports.delete,
        "adapter": client.adapters.delete,
        "adapter_revision": client.adapters.delete_revision,
        "evaluation": client.evaluations.delete,
        "prompt": client.prompts.delete,
        "challenge_set": client.challenge_sets.delete,
        "annotation_queue": client.annotation_queues.delete,
        "gate_policy": client.gates.delete_policy,
    }
    return nouns[names.parse(name).kind]
