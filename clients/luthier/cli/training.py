"""luthier train"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier import config_files
from luthier.cli.files import PATH
from luthier.cli.following import follow_new
from luthier.cli.revisions import dataset_revision
from luthier.cli.session import Command, Session
from luthier.trainer.v1.training_job_pb2 import TrainingConfig, TrainingJob

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.command(cls=Command)
@click.argument("name")
@click.option("--base", required=True, metavar="M", help="The base model: an id or baseModels/M.")
@click.option("--dataset", required=True, metavar="REVISION", help="`ID/REVISION`, a resource name, or ID (latest).")
@click.option("--config", type=PATH, help="YAML of a TrainingConfig.")
@click.option("--watch", is_flag=True, help="Show the progress and wait for the adapter revision.")
def train(session: Session, *, name: str, base: str, dataset: str, config: pathlib.Path | None, watch: bool) -> None:
    """Train adapter NAME on a dataset revision. The job continues when this command ends."""
    session.adopt(name, dataset)
    adapter, base_model = session.name("adapter", name), session.name("base_model", base)
    how = config_files.load(config, TrainingConfig) if config else None

    async def work(client: AsyncClient) -> TrainingJob:
        revision = await dataset_revision(client, session, dataset)
        created = await client.training_jobs.create(
            session.parent, adapter=adapter, base_model=base_model, dataset_revision=revision, config=how
        )
        found: TrainingJob = await follow_new(client, session, created, wait=watch)
        return found

    job = session.run(work)
    if session.as_json:
        session.emit(job, **({"event": "result"} if watch else {}))
    elif watch:
        click.echo(job.adapter_revision)
        session.note(f"next: luthier evaluate {job.adapter_revision}")
    else:
        click.echo(job.name)
        session.note(f"watch it: luthier jobs watch {job.name}")
