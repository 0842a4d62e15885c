"""luthier verdict, luthier compare"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from luthier.cli import exits
from luthier.cli.session import Command, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.verdict_pb2 import Verdict
    from luthier.evaluator.v1.verdict_service_pb2 import CompareEvaluationsResponse


@click.command(cls=Command)
@click.argument("evaluation")
@click.option("--metric", metavar="M", help="The metric that decides. Default: the task's primary one.")
@click.option(
    "--worth", type=click.FloatRange(0, 1), metavar="G", help="Least gain that is worth more effort. Default 0."
)
@click.option("--max-price", type=click.FloatRange(min=0), metavar="P", help="Most that 1,000 answers may cost.")
@click.option("--max-latency", type=click.FloatRange(min=0), metavar="MS", help="Most milliseconds, 95th percentile.")
def verdict(
    session: Session,
    *,
    evaluation: str,
    metric: str | None,
    worth: float | None,
    max_price: float | None,
    max_latency: float | None,
) -> int:
    """Say which way of answering to use: the base model, a prompt, retrieval, tuning, or both.

    More effort is advised only where it is proved to pay. Exit code: 0 a recommendation, 2 too little evidence for one.
    """
    from luthier.display import to_document
    from luthier.evaluator.v1 import verdict_pb2 as pb

    resource = session.name("evaluation", evaluation)
    wanted = pb.VerdictPreferences(
        metric=metric or "", worth=worth, max_price_per_1000=max_price, max_latency_ms_p95=max_latency
    )
    found = session.run(lambda client: client.verdicts.decide(resource, preferences=wanted))
    if session.as_json:
        session.emit(to_document(found))
    else:
        _show_verdict(session, found)
    return exits.OK if found.recommended else exits.INCONCLUSIVE


def _show_verdict(session: Session, found: Verdict) -> None:
    from luthier.display import arm_name, interval, to_document

    click.echo(found.headline)
    session.table(
        ["way", "", f"#{found.preferences.metric}", "#price of 1,000", "#p50 ms", "#p95 ms", "new data needs"],
        [
            (
                arm_name(option.arm),
                plain["standing"].lower().replace("_", " "),
                interval(option.quality.mean, option.quality.interval_low, option.quality.interval_high),
                f"{option.price_per_1000:.4f}",
                f"{option.latency_ms_p50:.0f}",
                f"{option.latency_ms_p95:.0f}",
                _refresh(option.refresh, option.refresh_duration.seconds),
            )
            for option, plain in zip(found.options, to_document(found)["options"], strict=True)
        ],
        title=f"{found.evaluation}: mean [95 % interval]",
    )
    for reason in found.reasons:
        click.echo(f"- {reason}")


def _refresh(work: str, seconds: int) -> str:
    return f"{work} ({seconds} s)" if seconds else work


@click.command(cls=Command)
@click.argument("evaluation")
@click.argument("reference")
def compare(session: Session, *, evaluation: str, reference: str) -> None:
    """Compare EVALUATION with REFERENCE: each arm over the rows of both, and what else differs between the two."""
    from luthier.display import to_document

    names = session.name("evaluation", evaluation), session.name("evaluation", reference)

    async def work(client: AsyncClient) -> CompareEvaluationsResponse:
        return await client.verdicts.compare(*names)

    found = session.run(work)
    if session.as_json:
        session.emit(to_document(found))
    else:
        _show_comparison(session, found)


def _show_comparison(session: Session, found: CompareEvaluationsResponse) -> None:
    from luthier.display import arm_name, interval

    left_out = found.only_evaluation_row_count + found.only_reference_row_count
    session.table(
        ["arm", "metric", "#difference", "#rows", "#groups"],
        [
            (
                arm_name(difference.arm),
                difference.metric,
                interval(difference.difference, difference.interval_low, difference.interval_high),
                difference.row_count,
                difference.group_count,
            )
            for difference in found.differences
        ],
        title=f"{found.common_row_count} common rows, {left_out} others left out [95 % interval, clustered by group]",
    )
    session.table(
        ["differs in", "evaluation", "reference", ""],
        [
            (
                change.subject,
                change.evaluation_value,
                change.reference_value,
                "changes scores by itself" if change.affects_scoring else "",
            )
            for change in found.changes
        ],
    )
    if found.not_compared:
        session.table(["not compared", "why"], [(gap.subject, gap.reason) for gap in found.not_compared])
