"""The results of an evaluation as tables: every estimate has its interval, its coverage, and the effect that failed
answers could have on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import click

from luthier.cli.session import Session
from luthier.display import arm_name, enum_name, interval
from luthier.evaluator.v1.evaluation_pb2 import Evaluation, MetricValue, PairedDifference


def show_evaluation(session: Session, evaluation: Evaluation) -> None:
    """Arms by metrics, differences between arms, slices, retrieval, and notes on the evidence."""
    _show_arms(session, evaluation)
    _show_differences(session, evaluation.differences)
    _show_slices(session, evaluation)
    _show_retrieval(session, evaluation)
    _show_sequential_decisions(session, evaluation)
    _note_evidence(session, evaluation)


def mean(value: MetricValue) -> str:
    """Mean and interval; where rows have no score also their share, and the mean with them at worst and at best."""
    if not value.coverage:
        return "no row has a score"
    text = interval(value.mean, value.interval_low, value.interval_high)
    if value.coverage < 1:
        text += f" ({value.coverage:.0%} of rows), {value.worst_mean:.3f} to {value.best_mean:.3f}"
    return text


def _show_arms(session: Session, evaluation: Evaluation) -> None:
    metrics = list(dict.fromkeys(value.metric for arm in evaluation.arms for value in arm.metrics))
    rows = []
    for arm in evaluation.arms:
        means = {value.metric: mean(value) for value in arm.metrics}
        latencies = f"{arm.latency_ms_p50:.0f}", f"{arm.latency_ms_p95:.0f}"
        cells = [means.get(metric, "") for metric in metrics]
        name = arm_name(arm.arm)
        rows.append((name, arm.row_count, arm.failed_row_count, *cells, *latencies, f"{arm.cost_per_1000:.4f}"))
    columns = ["arm", "#rows", "#failed", *(f"#{metric}" for metric in metrics), "#p50 ms", "#p95 ms"]
    session.table([*columns, "#cost per 1,000"], rows, title="mean [95 % interval]")


def _show_differences(session: Session, differences: Iterable[PairedDifference]) -> None:
    """One line per difference. Where rows have no score: the range that failures allow, and the common rows' result."""
    rows = []
    for one in differences:
        missing = one.common_row_count < one.row_count
        common = interval(one.common_difference, one.common_interval_low, one.common_interval_high)
        rows.append(
            (
                one.metric,
                f"{arm_name(one.arm)} - {arm_name(one.reference)}",
                interval(one.difference, one.interval_low, one.interval_high),
                "" if math.isnan(one.adjusted_p_value) else f"{one.adjusted_p_value:.2g}",
                f"{one.worst_difference:+.3f} to {one.best_difference:+.3f}" if missing else "",
                f"{common} ({one.common_row_count} rows)" if missing else "",
                one.row_count,
                one.group_count,
            )
        )
    columns = ["metric", "difference", "#estimate", "#p (Holm)", "#failures at worst, best", "#on common rows"]
    title = "paired differences [95 % interval, clustered by group]"
    session.table([*columns, "#rows", "#groups"], rows, title=title)


def _show_slices(session: Session, evaluation: Evaluation) -> None:
    """The first metric of every arm, slice by slice; --json has all metrics."""
    if not evaluation.slices:
        return
    arms = [arm.arm for arm in evaluation.arms]
    metric = next((value.metric for arm in evaluation.arms for value in arm.metrics), "")
    rows = []
    for part in evaluation.slices:
        means = {arm.arm: mean(value) for arm in part.arms for value in arm.metrics if value.metric == metric}
        rows.append((part.slice, part.row_count, part.group_count, *(means.get(arm, "") for arm in arms)))
    columns = ["slice", "#rows", "#groups", *(f"#{arm_name(arm)}" for arm in arms)]
    session.table(columns, rows, title=f"{metric} by slice [95 % interval]")


def _show_retrieval(session: Session, evaluation: Evaluation) -> None:
    """Every retriever's metrics; the one that was used is marked."""
    if not evaluation.HasField("retrieval"):
        return
    found = evaluation.retrieval
    metrics = [value.metric for value in found.retrievers[0].metrics] if found.retrievers else []
    rows = []
    for one in found.retrievers:
        means = [interval(value.mean, value.interval_low, value.interval_high) for value in one.metrics]
        rows.append((enum_name(one, "retriever").lower(), *means, "yes" if one.retriever == found.chosen else ""))
    session.table(["retriever", *(f"#{metric}" for metric in metrics), "used"], rows, title="retrieval [95 % interval]")
    click.echo(
        f"judged on {found.judged_row_count} of {found.row_count} {found.judged_on} rows; "
        f"relevant: {found.relevance.replace('_', ' ')}"
    )


def _show_sequential_decisions(session: Session, evaluation: Evaluation) -> None:
    if not evaluation.sequential_decisions:
        return
    rows = []
    for one in evaluation.sequential_decisions:
        target = one.target
        difference = f"{arm_name(target.arm)} - {arm_name(target.reference)} > {target.at_least:g}"
        estimate = interval(one.difference, one.interval_low, one.interval_high)
        outcome = enum_name(one, "outcome").lower()
        rows.append((target.metric, difference, outcome, one.row_count, one.round_count, estimate))
    columns = ["metric", "difference", "decision", "#rows", "#rounds", "#estimate"]
    session.table(columns, rows, title="sequential decisions [interval valid at every round]")


def _note_evidence(session: Session, evaluation: Evaluation) -> None:
    """Reused answers, rows that resemble training data, and an overused holdout."""
    if reused := sum(arm.cached_row_count for arm in evaluation.arms):
        session.note(f"{reused} answers were reused from other evaluations; latency and cost leave them out")
    if evaluation.leakage.counts:
        session.note(f"rows that resemble training data: {dict(evaluation.leakage.counts)}; see --json")
    use = evaluation.holdout_use
    if use.is_overused:
        session.note(
            f"warning: this holdout has been used {use.access_count} times: the chance of at least one false GO is up "
            f"to {use.false_go_bound:.0%}; decide on its final slice (--final) or on new rows"
        )
