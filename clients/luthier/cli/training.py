"""luthier train"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier.cli.session import Command, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.trainer.v1.training_job_pb2 import TrainingJob


@click.command(cls=Command)
@click.argument("name")
@click.option("--base", required=True, metavar="M", help="The base model: an id or baseModels/M.")
@click.option("--dataset", required=True, metavar="REVISION", help="`ID/REVISION`, a resource name, or ID (latest).")
@click.option("--config", type=click.Path(path_type=pathlib.Path), help="YAML of a TrainingConfig.")
@click.option("--watch", is_flag=True, help="Show the progress and wait for the adapter revision.")
def train(session: Session, *, name: str, base: str, dataset: str, config: pathlib.Path | None, watch: bool) -> None:
    """Train adapter NAME on a dataset revision. The job goes on without this command."""
    from luthier import config_files
    from luthier.cli.datasets import latest_revision, revision_name
    from luthier.cli.watching import follow
    from luthier.display import to_document
    from luthier.trainer.v1.training_job_pb2 import TrainingConfig

    session.adopt(name, dataset)
    adapter, base_model = session.name("adapter", name), session.name("base_model", base)
    dataset_name = revision_name(session, dataset)
    how = config_files.load(config, TrainingConfig) if config else None

    async def work(client: AsyncClient) -> TrainingJob:
        revision = await latest_revision(client, dataset_name)
        job = await client.training_jobs.create(
            session.parent, adapter=adapter, base_model=base_model, dataset_revision=revision, config=how
        )
        session.following = job.name
        if not watch:
            return job
        session.note(job.name)
        if session.as_json:
            session.emit({"event": "created"} | to_document(job))
        found: TrainingJob = await follow(client, session, job.name)
        return found

    job = session.run(work)
    if session.as_json:
        session.emit(({"event": "result"} if watch else {}) | to_document(job))
    elif watch:
        click.echo(job.adapter_revision)
        session.note(f"next: luthier evaluate {job.adapter_revision}")
    else:
        click.echo(job.name)
        session.note(f"watch it: luthier jobs watch {job.name}")
