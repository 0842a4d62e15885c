"""luthier jobs list | watch | cancel: training jobs, evaluations, searches of prompts and dataset revisions alike, by
resource name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from luthier.cli import exits
from luthier.cli.session import Group, Session
from luthier.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from luthier.client import AsyncClient


@click.group(cls=Group)
def jobs() -> None:
    """Work that goes on by itself: training jobs, evaluations, searches of prompts, curations."""


@jobs.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most jobs of each kind.")
@click.option("--active", is_flag=True, help="Only those that are not final.")
def list_(session: Session, *, limit: int, active: bool) -> int:
    """List the tenant's jobs, newest first. Exit code 69 if a service does not answer; the others' jobs are shown."""
    from luthier.display import state_of, to_document, when

    found, away = session.run(lambda client: _all(client, session.parent, limit))
    if active:
        found = [job for job in found if state_of(job) in {"QUEUED", "RUNNING", "CURATING", "CANCELLING"}]
    if session.as_json:
        jobs_found = [{"kind": kind_name(job)} | to_document(job) for job in found]
        session.emit({"jobs": jobs_found, "unavailable": [error.message for error in away]})
        return exits.UNAVAILABLE if away else exits.OK
    rows = [
        (job.name, kind_name(job), state_of(job), when(job.create_time), _progress(job), job.error.message)
        for job in found
    ]
    session.table(["name", "kind", "state", "created (UTC)", "progress", "error"], rows)
    for error in away:
        session.note(f"not shown: {error.message}")
    return exits.UNAVAILABLE if away else exits.OK


@jobs.command()
@click.argument("name")
def watch(session: Session, *, name: str) -> None:
    """Follow a job until it is final. It can be interrupted and watched again."""
    from luthier.cli.watching import follow
    from luthier.display import to_document

    session.adopt(name)
    job = session.run(lambda client: follow(client, session, name))
    if session.as_json:
        session.emit({"event": "result"} | to_document(job))
        return
    click.echo(getattr(job, "adapter_revision", "") if kind_name(job) == "training" else job.name)


@jobs.command()
@click.argument("name")
def cancel(session: Session, *, name: str) -> None:
    """Ask a job to end. A finished job stays as it is."""
    from luthier.cli.watching import kind_of
    from luthier.display import state_of, to_document

    session.adopt(name)

    async def work(client: AsyncClient) -> Any:
        verbs = {
            "training_job": client.training_jobs.cancel,
            "evaluation": client.evaluations.cancel,
            "prompt": client.prompts.cancel,
            "dataset_revision": client.datasets.cancel_revision,
        }
        kind = kind_of(name)
        if kind not in verbs:
            raise click.UsageError(f"an import of a base model cannot be cancelled: {name}")
        return await verbs[kind](name)

    job = session.run(work)
    if session.as_json:
        session.emit(to_document(job))
    else:
        click.echo(f"{job.name}: {state_of(job)}")


async def _all(client: AsyncClient, parent: str, limit: int) -> tuple[list[Any], list[UnavailableError]]:
    """The newest jobs of each kind, and the errors of the services that do not answer."""
    found: list[Any] = []
    away: list[UnavailableError] = []
    for source in (
        client.training_jobs.list(parent),
        client.evaluations.list(parent),
        client.prompts.list(parent),
        client.datasets.list_revisions(f"{parent}/datasets/-"),
    ):
        try:
            found += await _first(source, limit)
        except UnavailableError as error:
            away.append(error)
    return sorted(found, key=lambda job: (job.create_time.seconds, job.create_time.nanos), reverse=True), away


async def _first(source: AsyncIterator[Any], limit: int) -> list[Any]:
    found = []
    async for job in source:
        found.append(job)
        if len(found) == limit:
            break
    return found


def kind_name(job: Any) -> str:
    kinds = {
        "TrainingJob": "training",
        "Evaluation": "evaluation",
        "Prompt": "prompt",
        "DatasetRevision": "curation",
        "BaseModel": "import",
    }
    return kinds[job.DESCRIPTOR.name]


def _progress(job: Any) -> str:
    kind = kind_name(job)
    if kind == "training" and job.HasField("progress"):
        return f"step {job.progress.step}/{job.progress.total_steps}, loss {job.progress.loss:.3f}"
    if kind == "evaluation" and job.HasField("progress"):
        return f"{job.progress.phase} {job.progress.done_count}/{job.progress.total_count}"
    if kind == "prompt" and job.HasField("progress"):
        return f"searching {job.progress.done_count}/{job.progress.total_count}"
    return ""
