"""luthier evaluate"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from luthier import config_files
from luthier.cli import challenge_files, revisions
from luthier.cli.evaluation_tables import show_evaluation
from luthier.cli.files import NEW_FILE, PATH
from luthier.cli.following import follow_new, show_new
from luthier.cli.session import Command, Session
from luthier.evaluator.v1.evaluation_pb2 import Arm, EndpointTarget, Evaluation, EvaluationConfig

if TYPE_CHECKING:
    from luthier.client import AsyncClient

DEFAULT_ARMS = ("base", "prompted", "rag", "adapter", "adapter_rag")
# Options that name an additional arm, and the arm.
ARM_OF_OPTION = {"challenger": "challenger", "raft_adapter": "adapter_raft", "model_endpoint": "endpoint"}
ARMS_HELP = f"Ways to answer. Default {','.join(DEFAULT_ARMS)}, and {', '.join(ARM_OF_OPTION.values())} where named."


@click.command(cls=Command)
@click.argument("adapter_revision", metavar="ADAPTER_REVISION")
@click.option("--dataset", metavar="REVISION", help="The rows. Default: the revision that the adapter was trained on.")
@click.option("--split", type=click.Choice(["holdout", "validation"]), help="Which rows. Default holdout.")
@click.option("--arms", metavar="ARM,...", help=ARMS_HELP)
@click.option("--documents", metavar="REVISION", help="Retrieve from this dataset revision instead of training rows.")
@click.option("--challenger", metavar="REVISION", help="Also run another adapter revision.")
@click.option("--raft-adapter", metavar="REVISION", help="Also run an adapter that was trained for retrieval.")
@click.option("--model-endpoint", metavar="NAME[/MODEL]", help="Also run a model of the server's list of endpoints.")
@click.option("--limit", "row_limit", type=click.IntRange(min=0), metavar="N", help="Maximum number of rows; 0: all.")
@click.option("--challenge", metavar="NAME|FILE", help="Also run reviewed challenge cases; a FILE is uploaded first.")
@click.option("--config", type=PATH, help="YAML of an EvaluationConfig; options take precedence.")
@click.option("--report", type=NEW_FILE, help="HTML file to write.")
@click.option("--final", is_flag=True, help="Use the final slice of the holdout: once per adapter content.")
@click.option("--sequential", is_flag=True, help="Answer in rounds; drop arms whose differences are decided.")
@click.option("--use-cache", is_flag=True, help="Reuse answers of the tenant's other evaluations.")
@click.option("--purpose", metavar="TEXT", help="Why the holdout is used, for its ledger.")
@click.option("--detach", is_flag=True, help="Do not wait.")
def evaluate(
    session: Session,
    *,
    adapter_revision: str,
    dataset: str | None,
    challenge: str | None,
    config: pathlib.Path | None,
    report: pathlib.Path | None,
    detach: bool,
    **options: Any,
) -> None:
    """Compare ways to answer the same rows: paired, with 95 % intervals, latency and cost.

    ADAPTER_REVISION: `ID/REVISION`, a resource name, or ID (latest).
    """
    if detach and report:
        raise click.UsageError("--report needs the finished evaluation: leave out --detach")
    named = {option: options.pop(option) for option in (*ARM_OF_OPTION, "documents")}
    session.adopt(adapter_revision, dataset, named["documents"], named["challenger"], named["raft_adapter"])
    cases = challenge_files.name_or_cases(session, challenge) if challenge else None
    how = _config(config, **options)

    async def work(client: AsyncClient) -> Evaluation:
        rows = await revisions.dataset_revision(client, session, dataset) if dataset else ""
        adapter = await revisions.adapter_revision(client, session, adapter_revision)
        if cases is not None:
            how.challenge_set = await challenge_files.uploaded(client, session, cases)
        await _set_named(client, session, how, named)
        created = await client.evaluations.create(
            session.parent, adapter_revision=adapter, dataset_revision=rows, config=how
        )
        found: Evaluation = await follow_new(client, session, created, wait=not detach)
        if report:
            await asyncio.to_thread(report.write_bytes, await client.evaluations.read_report(found.name))
        return found

    evaluation = session.run(work)
    show_new(session, evaluation, waited=not detach, show=lambda: show_evaluation(session, evaluation))
    if report:
        session.note(f"report: {report}")
    if not detach:
        session.note(f"next: luthier gate {evaluation.name} --policy FILE.yaml")


def _config(path: pathlib.Path | None, *, arms: str | None, sequential: bool, **options: object) -> EvaluationConfig:
    """The configuration file, overridden by the options that were given."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if arms is not None:
        given["arms"] = [arm.strip() for arm in arms.split(",") if arm.strip()]
    if sequential:
        given["sequential"] = {}
    overrides = config_files.load(given, EvaluationConfig)
    config = config_files.load(path or {}, EvaluationConfig)
    if overrides.arms:
        config.ClearField("arms")
    config.MergeFrom(overrides)
    return config


async def _set_named(
    client: AsyncClient, session: Session, config: EvaluationConfig, named: Mapping[str, str | None]
) -> None:
    """Writes what the options name into `config`, and adds their arms unless --arms or the file lists the arms."""
    if documents := named["documents"]:
        config.passages = await revisions.dataset_revision(client, session, documents)
    if challenger := named["challenger"]:
        config.challenger_revision = await revisions.adapter_revision(client, session, challenger)
    if raft_adapter := named["raft_adapter"]:
        config.raft_adapter_revision = await revisions.adapter_revision(client, session, raft_adapter)
    if endpoint := named["model_endpoint"]:
        name, _, model = endpoint.partition("/")
        config.endpoint.CopyFrom(EndpointTarget(endpoint=name, model=model))
    additional = [arm for option, arm in ARM_OF_OPTION.items() if named[option]]
    if additional and not config.arms:
        config.arms.extend(Arm.Value(f"ARM_{arm.upper()}") for arm in (*DEFAULT_ARMS, *additional))
