"""The parts of the report that only some evaluations have, as tables: slices, retrievers, sequential decisions,
leaks, scores that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.statistics.estimates import Interval


@dataclass(frozen=True)
class Table:
    """`rows` are as long as `heads`; the first `label_count` columns are words, the others figures."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    label_count: int = 1


def tables(results: Results, metric: Metric, rival: Arm | None, arm_labels: Mapping[Arm, str]) -> list[Table]:
    """Every table that has rows. `metric` is the primary one, `rival` the strongest arm without the adapter."""
    made = (
        _slices(results.slices, metric, rival, arm_labels),
        _retrievers(results),
        _sequential(results, arm_labels),
        _leaks(results),
        _missing_scores(results, arm_labels),
    )
    return [table for table in made if table.rows]


def _slices(
    slices: Mapping[str, MetricResults], metric: Metric, rival: Arm | None, arm_labels: Mapping[Arm, str]
) -> Table:
    arms = list(dict.fromkeys(found.arm for figures in slices.values() for found in figures.metrics))
    against = f"Adapter minus {arm_labels[rival]}" if rival else "Adapter minus its rival"
    rows = []
    for name, figures in slices.items():
        found = {arm: figures.metric(arm, metric) for arm in arms}
        count = max((one.row_count for one in found.values() if one), default=0)
        if not count:
            continue  # a slice of a suite whose rows only have the suite's metrics
        rows.append(arm_row(name, count, figures, metric, arms, rival))
    heads = ("Slice", "Rows", *(arm_labels[arm] for arm in arms), against)
    return Table(
        "Slices",
        "The primary metric on parts of the rows. With many slices a single interval that excludes zero is a hint, not "
        "a proof; gate on the slices that matter.",
        heads,
        tuple(rows),
    )


def arm_row(
    label: str, count: int, figures: MetricResults, metric: Metric, arms: Sequence[Arm], reference: Arm | None
) -> tuple[str, ...]:
    """The metric by arm, and last the adapter's paired difference to `reference`. `count`: of what was measured."""
    found = [figures.metric(arm, metric) for arm in arms]
    gain = figures.comparison(metric, Arm.ADAPTER, reference) if reference else None
    cells = [figure(one.value, one.interval) if one else "" for one in found]
    return (label, str(count), *cells, figure(gain.difference, gain.interval, signed=True) if gain else "")


def _retrievers(results: Results) -> Table:
    found = results.retrieval
    if found is None:
        return Table("Retrieval", "", (), ())
    names = list(dict.fromkeys(figure.metric for one in found.retrievers for figure in one.metrics))
    rows = []
    for one in found.retrievers:
        by_name = {figure.metric: figure for figure in one.metrics}
        shown = [
            f"{f.value:.3f}" + (f" [{f.low:.3f}, {f.high:.3f}]" if f.low is not None and f.high is not None else "")
            for f in (by_name[name] for name in names if name in by_name)
        ]
        rows.append((one.retriever.value + (" (used)" if one.retriever is found.chosen else ""), *shown))
    note = (
        f"Judged on {found.judged_count} of {found.row_count} {found.judged_on} rows, never on the rows evaluated; "
        f"relevant: {found.relevance.value.replace('_', ' ')}."
    )
    return Table("Retrieval", note, ("Retriever", *names), tuple(row for row in rows if len(row) > 1))


def _sequential(results: Results, arm_labels: Mapping[Arm, str]) -> Table:
    rows = [
        (
            f"{found.target.metric}: {arm_labels[found.target.arm]} minus {arm_labels[found.target.reference]} above "
            f"{found.target.at_least:g}",
            found.outcome.value,
            str(found.row_count),
            str(found.group_count),
            figure(found.difference, found.interval, signed=True),
        )
        for found in results.sequential_decisions
    ]
    note = "Confidence sequences: they hold at whatever number of rows one stops."
    return Table("Decided in rounds", note, ("Target", "Outcome", "Rows", "Groups", "Difference"), tuple(rows), 2)


def _leaks(results: Results) -> Table:
    rows = [
        (found.kind, found.row_id, f"{found.other_id} in {found.other_set}", f"{found.similarity:.2f}")
        for found in results.leakage.findings
    ]
    counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in results.leakage.counts.items())
    note = f"Rows that resemble training rows, below the similarity that is refused: {counts}."
    return Table("Near the training rows", note, ("Kind", "Row", "Resembles", "Similarity"), tuple(rows), 3)


def _missing_scores(results: Results, arm_labels: Mapping[Arm, str]) -> Table:
    rows = [
        (arm_labels[Arm(arm)], metric, reason, str(count))
        for arm, by_metric in results.metric_details.failures.items()
        for metric, by_reason in by_metric.items()
        for reason, count in by_reason.items()
    ]
    note = "These rows stay in every mean as 0; the figures above say what they could be at worst and at best."
    return Table("Answers without a score", note, ("Arm", "Metric", "Reason", "Rows"), tuple(rows), 3)


def figure(value: float, interval: Interval | None, *, signed: bool = False) -> str:
    """A value, and the ends of its interval where there is one."""
    form = "+.3f" if signed else ".3f"
    shown = f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""
    return format(value, form) + shown
