"""luthier evaluate"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier.cli.evaluation_arms import ARMS_HELP, named_in, naming_options, show_retrieval
from luthier.cli.session import Command, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.evaluation_pb2 import ArmResult, Evaluation, EvaluationConfig


@click.command(cls=Command)
@click.argument("adapter_revision")
@click.option("--dataset", metavar="REVISION", help="The rows; default: the revision that the adapter was trained on.")
@click.option("--split", type=click.Choice(["holdout", "validation"]), help="Which rows. Default holdout.")
@click.option("--arms", metavar="ARM,...", help=ARMS_HELP)
@naming_options
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Most rows; 0: all.")
@click.option("--challenge", metavar="NAME|FILE", help="Ask reviewed challenge cases, too; a FILE is uploaded first.")
@click.option("--config", type=click.Path(path_type=pathlib.Path), help="YAML of an EvaluationConfig; options win.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="HTML file to write.")
@click.option("--final", is_flag=True, help="Read the final slice of the holdout: once for an adapter's content.")
@click.option("--sequential", is_flag=True, help="Ask in rounds; stop asking arms whose differences are decided.")
@click.option("--use-cache", is_flag=True, help="Take answers that another evaluation of the tenant paid for.")
@click.option("--purpose", metavar="TEXT", help="Why the holdout is looked at, for its ledger.")
@click.option("--detach", is_flag=True, help="Do not wait.")
def evaluate(
    session: Session,
    *,
    adapter_revision: str,
    dataset: str | None,
    split: str | None,
    arms: str | None,
    limit: int | None,
    challenge: str | None,
    config: pathlib.Path | None,
    report: pathlib.Path | None,
    final: bool,
    sequential: bool,
    use_cache: bool,
    purpose: str | None,
    detach: bool,
    **named: str | None,
) -> None:
    """Compare ways to answer the same rows: paired, with 95 % intervals, latency and cost.

    ADAPTER_REVISION: `ID/REVISION`, a resource name, or ID (latest).
    """
    import asyncio

    from luthier.cli.adapters import latest_revision
    from luthier.cli.challenge import named_or_read, uploaded
    from luthier.cli.datasets import latest_revision as latest_dataset_revision
    from luthier.cli.datasets import revision_name
    from luthier.cli.watching import follow
    from luthier.display import to_document

    if detach and report:
        raise click.UsageError("--report needs the finished evaluation: leave out --detach")
    session.adopt(adapter_revision, dataset, *(named[key] for key in ("documents", "challenger", "raft_adapter")))
    cases = named_or_read(session, challenge) if challenge else None
    how = _config(
        config,
        split=split,
        arms=arms,
        row_limit=limit,
        purpose=purpose,
        final=final or None,
        use_cache=use_cache or None,
        sequential={} if sequential else None,
    )

    async def work(client: AsyncClient) -> Evaluation:
        rows = await latest_dataset_revision(client, revision_name(session, dataset)) if dataset else ""
        adapter = await latest_revision(client, session, adapter_revision)
        if cases is not None:
            how.challenge_set = await uploaded(client, session, cases)
        await named_in(client, session, how, named)
        created = await client.evaluations.create(
            session.parent, adapter_revision=adapter, dataset_revision=rows, config=how
        )
        session.following = created.name
        if detach:
            return created
        session.note(created.name)
        if session.as_json:
            session.emit({"event": "created"} | to_document(created))
        found: Evaluation = await follow(client, session, created.name)
        if report:
            content = await client.evaluations.read_report(found.name)
            await asyncio.to_thread(report.write_bytes, content)
        return found

    evaluation = session.run(work)
    if session.as_json:
        session.emit(({} if detach else {"event": "result"}) | to_document(evaluation))
        return
    click.echo(evaluation.name)
    if detach:
        session.note(f"watch it: luthier jobs watch {evaluation.name}")
        return
    show(session, evaluation)
    if report:
        session.note(f"report: {report}")
    session.note(f"next: luthier gate {evaluation.name} --policy FILE.yaml")


def _config(path: pathlib.Path | None, *, arms: str | None, **given_options: object) -> EvaluationConfig:
    from luthier import config_files
    from luthier.evaluator.v1.evaluation_pb2 import EvaluationConfig

    options: dict[str, object] = {name: value for name, value in given_options.items() if value is not None}
    if arms is not None:
        options["arms"] = [arm.strip() for arm in arms.split(",") if arm.strip()]
    given = config_files.load(options, EvaluationConfig)
    if path is None:
        return given
    stored = config_files.load(path, EvaluationConfig)
    if given.arms:
        stored.ClearField("arms")
    stored.MergeFrom(given)
    return stored


def show(session: Session, evaluation: Evaluation) -> None:
    """Arms by metrics, what the arms differ by, the slices, and what the figures rest on."""
    from luthier.cli import figures
    from luthier.cli.holdouts import show_evidence
    from luthier.display import arm_name

    metrics = list(dict.fromkeys(value.metric for arm in evaluation.arms for value in arm.metrics))
    session.table(
        ["arm", "#rows", "#failed", *(f"#{metric}" for metric in metrics), "#p50 ms", "#p95 ms", "#cost per 1,000"],
        [
            (
                arm_name(arm.arm),
                arm.row_count,
                arm.failed_row_count,
                *_means(arm, metrics),
                f"{arm.latency_ms_p50:.0f}",
                f"{arm.latency_ms_p95:.0f}",
                f"{arm.cost_per_1000:.4f}",
            )
            for arm in evaluation.arms
        ],
        title="mean [95 % interval]",
    )
    figures.show_differences(session, evaluation.differences)
    figures.show_slices(session, evaluation)
    show_retrieval(session, evaluation)
    show_evidence(session, evaluation)


def _means(arm: ArmResult, metrics: list[str]) -> list[str]:
    from luthier.cli import figures

    found = {value.metric: value for value in arm.metrics}
    return ["" if (value := found.get(metric)) is None else figures.mean(value) for metric in metrics]
