"""luthier jobs list | watch | cancel | delete: jobs of all kinds by resource name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from luthier.cli import exits
from luthier.cli.deletion import add_delete
from luthier.cli.following import follow, kind_of, methods_of
from luthier.cli.session import Group, Session
from luthier.display import state_of, to_document, when
from luthier.errors import UnavailableError

if TYPE_CHECKING:
    from luthier.client import AsyncClient

KIND_NAMES = {
    "TrainingJob": "training",
    "Evaluation": "evaluation",
    "Prompt": "prompt",
    "DatasetRevision": "curation",
    "BaseModel": "import",
    "AdapterImport": "adapter import",
}


@click.group(cls=Group)
def jobs() -> None:
    """Work in the background: training jobs, imports, evaluations, prompt searches, curations."""


@jobs.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Maximum jobs of each kind.")
@click.option("--active", is_flag=True, help="Only jobs that are not final.")
def list_(session: Session, *, limit: int, active: bool) -> int:
    """List the tenant's jobs, newest first. Exit code 69 if a service does not answer; the others' jobs are shown."""
    found, errors = session.run(lambda client: _all(client, session.parent, limit))
    if active:
        found = [job for job in found if state_of(job) in {"QUEUED", "RUNNING", "CURATING", "CANCELLING"}]
    if session.as_json:
        documents = [{"kind": _kind_name(job)} | to_document(job) for job in found]
        session.emit({"jobs": documents, "unavailable": [error.message for error in errors]})
    else:
        rows = [
            (job.name, _kind_name(job), state_of(job), when(job.create_time), _progress(job), job.error.message)
            for job in found
        ]
        session.table(["name", "kind", "state", "created (UTC)", "progress", "error"], rows)
        for error in errors:
            session.note(f"not shown: {error.message}")
    return exits.UNAVAILABLE if errors else exits.OK


@jobs.command()
@click.argument("name")
def watch(session: Session, *, name: str) -> None:
    """Follow a job until it is final. You can interrupt and watch it again."""
    session.adopt(name)
    job = session.run(lambda client: follow(client, session, name))
    if session.as_json:
        session.emit(job, event="result")
    else:
        click.echo(job.adapter_revision if _kind_name(job) in ("training", "adapter import") else job.name)


@jobs.command()
@click.argument("name")
def cancel(session: Session, *, name: str) -> None:
    """Ask a job to end. A finished job stays as it is."""
    session.adopt(name)

    async def work(client: AsyncClient) -> Any:
        kind = kind_of(name)
        if kind == "base_model":
            raise click.UsageError(f"an import of a base model cannot be cancelled: {name}")
        return await methods_of(client, kind).cancel(name)

    session.show(session.run(work), lambda job: click.echo(f"{job.name}: {state_of(job)}"))


async def _all(client: AsyncClient, parent: str, limit: int) -> tuple[list[Any], list[UnavailableError]]:
    """The newest jobs of each kind, and the errors of the services that do not answer."""
    found: list[Any] = []
    errors: list[UnavailableError] = []
    sources: tuple[AsyncIterator[Any], ...] = (
        client.training_jobs.list(parent),
        client.adapter_imports.list(parent),
        client.evaluations.list(parent),
        client.prompts.list(parent),
        client.datasets.list_revisions(f"{parent}/datasets/-"),
    )
    for source in sources:
        try:
            found += await _first(source, limit)
        except UnavailableError as error:
            errors.append(error)
    return sorted(found, key=lambda job: (job.create_time.seconds, job.create_time.nanos), reverse=True), errors


async def _first(source: AsyncIterator[Any], limit: int) -> list[Any]:
    found = []
    async for job in source:
        found.append(job)
        if len(found) == limit:
            break
    return found


def _kind_name(job: Any) -> str:
    return KIND_NAMES[job.DESCRIPTOR.name]


def _progress(job: Any) -> str:
    kind = _kind_name(job)
    if kind == "training" and job.HasField("progress"):
        return f"step {job.progress.step}/{job.progress.total_steps}, loss {job.progress.loss:.3f}"
    if kind in ("evaluation", "prompt") and job.HasField("progress"):
        phase = job.progress.phase if kind == "evaluation" else "searching"
        return f"{phase} {job.progress.done_count}/{job.progress.total_count}"
    return ""


def _finished_job(session: Session, value: str) -> str:
    session.adopt(value)
    if kind_of(value) == "base_model":
        raise click.UsageError(f"an import goes with its model: luthier model delete {value}")
    return value


add_delete(jobs, _finished_job, "Delete job NAME, of any kind, once it has ended.")
