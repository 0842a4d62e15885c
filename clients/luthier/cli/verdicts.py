"""luthier verdict, luthier compare"""

from __future__ import annotations

import click

from luthier.cli import exits
from luthier.cli.session import Command, Session
from luthier.display import arm_name, enum_name, interval
from luthier.evaluator.v1.verdict_pb2 import Verdict, VerdictOption, VerdictPreferences
from luthier.evaluator.v1.verdict_service_pb2 import CompareEvaluationsResponse


@click.command(cls=Command)
@click.argument("evaluation")
@click.option("--metric", metavar="M", default="", help="The metric that decides. Default: the task's primary one.")
@click.option("--worth", type=click.FloatRange(0, 1), metavar="G", help="Minimum gain worth more effort. Default 0.")
@click.option("--max-price", type=click.FloatRange(min=0), metavar="P", help="Maximum price of 1,000 answers.")
@click.option("--max-latency", type=click.FloatRange(min=0), metavar="MS", help="Maximum p95 latency, milliseconds.")
def verdict(
    session: Session,
    *,
    evaluation: str,
    metric: str,
    worth: float | None,
    max_price: float | None,
    max_latency: float | None,
) -> int:
    """Recommend a way of answering: the base model, a prompt, retrieval, tuning, or both.

    More effort is recommended only where it is proved to pay. Exit code: 0 a recommendation, 2 too little evidence.
    """
    resource = session.name("evaluation", evaluation)
    preferences = VerdictPreferences(
        metric=metric, worth=worth, max_price_per_1000=max_price, max_latency_ms_p95=max_latency
    )
    found = session.run(lambda client: client.verdicts.decide(resource, preferences=preferences))
    session.show(found, lambda found: _show_verdict(session, found))
    return exits.OK if found.recommended else exits.INCONCLUSIVE


def _show_verdict(session: Session, found: Verdict) -> None:
    click.echo(found.headline)
    rows = [
        (
            arm_name(option.arm),
            enum_name(option, "standing").lower().replace("_", " "),
            interval(option.quality.mean, option.quality.interval_low, option.quality.interval_high),
            f"{option.price_per_1000:.4f}",
            f"{option.latency_ms_p50:.0f}",
            f"{option.latency_ms_p95:.0f}",
            _refresh(option),
        )
        for option in found.options
    ]
    columns = [
        "arm",
        "standing",
        f"#{found.preferences.metric}",
        "#price of 1,000",
        "#p50 ms",
        "#p95 ms",
        "new data needs",
    ]
    session.table(columns, rows, title=f"{found.evaluation}: mean [95 % interval]")
    for reason in found.reasons:
        click.echo(f"- {reason}")


def _refresh(option: VerdictOption) -> str:
    seconds = option.refresh_duration.seconds
    return f"{option.refresh} ({seconds} s)" if seconds else option.refresh


@click.command(cls=Command)
@click.argument("evaluation")
@click.argument("reference")
def compare(session: Session, *, evaluation: str, reference: str) -> None:
    """Compare EVALUATION with REFERENCE: each arm on the rows they share, and everything else in which they differ."""
    names = session.name("evaluation", evaluation), session.name("evaluation", reference)
    found = session.run(lambda client: client.verdicts.compare(*names))
    session.show(found, lambda found: _show_comparison(session, found))


def _show_comparison(session: Session, found: CompareEvaluationsResponse) -> None:
    left_out = found.only_evaluation_row_count + found.only_reference_row_count
    differences = [
        (
            arm_name(one.arm),
            one.metric,
            interval(one.difference, one.interval_low, one.interval_high),
            one.row_count,
            one.group_count,
        )
        for one in found.differences
    ]
    title = f"{found.common_row_count} common rows, {left_out} others left out [95 % interval, clustered by group]"
    session.table(["arm", "metric", "#difference", "#rows", "#groups"], differences, title=title)
    changes = [
        (one.subject, one.evaluation_value, one.reference_value, "affects scores" * one.affects_scoring)
        for one in found.changes
    ]
    session.table(["differs in", "evaluation", "reference", "effect"], changes)
    if found.not_compared:
        session.table(["not compared", "why"], [(gap.subject, gap.reason) for gap in found.not_compared])
