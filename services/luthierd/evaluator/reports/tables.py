"""The report's tables that only some evaluations have; a table without rows is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metric_details import Share
from luthierd.evaluator.domain.metrics import STYLE, STYLE_JUDGED, Metric
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.suite_metrics import (
    ABSTENTION_PRECISION,
    ABSTENTION_RECALL,
    COUNTERFACTUAL_STABILITY,
    EXPECTED_BEHAVIOUR,
    FORGETTING_CHOICE,
    FORGETTING_INSTRUCTIONS,
    FORGETTING_LIKELIHOOD,
    LM_EVAL,
)
from luthierd.statistics.estimates import Interval

ARM_LABELS = {arm: arm.spec.label for arm in Arm}
LABELS_SHOWN = 12
"""Rarer labels are in the API (`GetEvaluation`)."""


@dataclass(frozen=True)
class Table:
    """`rows` are as long as `heads`; the first `label_count` columns are words, the others numbers."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    label_count: int = 1


def metric_tables(results: Results) -> list[Table]:
    """The tables about opt-in metrics and suites. People's votes come after an evaluation and are not here."""
    return _with_rows(
        [
            _criteria(results),
            _style(results),
            _labels(results),
            _suite(
                results,
                "challenge",
                (EXPECTED_BEHAVIOUR, ABSTENTION_PRECISION, ABSTENTION_RECALL),
                "Challenge cases",
                "Vague, hostile, incomplete or out of scope.",
            ),
            _suite(
                results,
                "retention",
                (FORGETTING_LIKELIHOOD, FORGETTING_CHOICE, FORGETTING_INSTRUCTIONS),
                "Forgetting",
                "General text, choices and instructions that have nothing to do with the task. Below zero in the last "
                "column is what tuning lost. Bits per byte: lower is better.",
            ),
            _suite(
                results,
                "counterfactual",
                (COUNTERFACTUAL_STABILITY,),
                "Bias",
                "The same question with a name, gender or origin swapped. Stability: the share of pairs with the same "
                "answer; flip rates: the share that changed, by what was swapped.",
            ),
            _lm_tasks(results),
            _judge(results),
        ]
    )


def other_tables(results: Results, primary: Metric, rival: Arm | None) -> list[Table]:
    """The tables about slices, retrieval and the rows. `rival`: the strongest arm without the adapter."""
    return _with_rows(
        [
            _slices(results, primary, rival),
            _retrievers(results),
            _sequential(results),
            _leaks(results),
            _missing_scores(results),
        ]
    )


def _with_rows(tables: Sequence[Table]) -> list[Table]:
    return [table for table in tables if table.rows]


def _arms_with(results: Iterable[MetricResults], metrics: Sequence[Metric]) -> list[Arm]:
    """The arms that have one of the metrics, in the order of reports."""
    found = {one.arm for part in results for one in part.metrics if one.metric in metrics}
    return [arm for arm in ARM_LABELS if arm in found]


def _heads(first: str, count: str, arms: Sequence[Arm], reference: str = "Base") -> tuple[str, ...]:
    return (first, count, *(ARM_LABELS[arm] for arm in arms), f"Adapter minus {reference}")


def _metric_row(label: str, results: MetricResults, metric: Metric, *, arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """The metric by arm; no row if nothing was scored."""
    found = [results.metric(arm, metric) for arm in arms]
    count = max((one.row_count for one in found if one and one.scored_count), default=0)
    return [_arm_row(label, count, results, metric, arms=arms, reference=Arm.BASE)] if count else []


def _arm_row(
    label: str, count: int, results: MetricResults, metric: Metric, *, arms: Sequence[Arm], reference: Arm | None
) -> tuple[str, ...]:
    """The metric by arm, and last the adapter's paired difference to `reference`."""
    found = [results.metric(arm, metric) for arm in arms]
    gain = results.comparison(metric, Arm.ADAPTER, reference) if reference else None
    cells = [with_interval(one.value, one.interval) if one else "" for one in found]
    return (label, str(count), *cells, with_interval(gain.difference, gain.interval, signed=True) if gain else "")


def _suite(results: Results, suite: str, metrics: Sequence[Metric], title: str, note: str) -> Table:
    """Metrics by arm, then the other quantities of the suite."""
    figures = [one for result in results.suites if result.suite == suite for one in result.figures]
    known = {*_arms_with([results.overall], metrics), *(one.arm for one in figures)}
    arms = [arm for arm in ARM_LABELS if arm in known]
    rows = [row for metric in metrics for row in _metric_row(spec_of(metric).title, results.overall, metric, arms=arms)]
    for quantity in dict.fromkeys(one.quantity for one in figures):
        by_arm = {one.arm: one for one in figures if one.quantity == quantity}
        cells = [with_interval(by_arm[arm].value, by_arm[arm].interval) if arm in by_arm else "" for arm in arms]
        items = max(one.item_count for one in by_arm.values())
        rows.append((quantity.replace("_", " "), str(items), *cells, ""))
    return Table(title, note, _heads("Quantity", "Items", arms), tuple(rows))


def _lm_tasks(results: Results) -> Table:
    """All tasks of lm-evaluation-harness together, then each."""
    arms = _arms_with([results.overall], [LM_EVAL])
    rows = _metric_row("all tasks", results.overall, LM_EVAL, arms=arms)
    for name, part in results.slices.items():
        rows += _metric_row(name.removeprefix("lm_eval:"), part, LM_EVAL, arms=arms)
    note = "Prompts and scores are lm-eval's, of base and adapter. Below zero in the last column is a loss."
    return Table("Tasks of lm-evaluation-harness", note, _heads("Task", "Items", arms), tuple(rows))


def _slices(results: Results, metric: Metric, rival: Arm | None) -> Table:
    arms = list(dict.fromkeys(found.arm for part in results.slices.values() for found in part.metrics))
    rows = []
    for name, part in results.slices.items():
        count = max((one.row_count for arm in arms if (one := part.metric(arm, metric))), default=0)
        if count:  # not of a suite whose rows only have the suite's metrics
            rows.append(_arm_row(name, count, part, metric, arms=arms, reference=rival))
    note = (
        "The primary metric on parts of the rows. With many slices a single interval that excludes zero is a hint, not "
        "a proof; gate on the slices that matter."
    )
    heads = _heads("Slice", "Rows", arms, ARM_LABELS[rival] if rival else "its rival")
    return Table("Slices", note, heads, tuple(rows))


def _criteria(results: Results) -> Table:
    by_arm = results.metric_details.criteria
    arms = [arm for arm in ARM_LABELS if by_arm.get(arm.value)]
    grades = {(arm, one.name): one for arm in arms for one in by_arm[arm.value]}
    rows = []
    for name in dict.fromkeys(name for _, name in grades):
        cells = []
        for arm in arms:
            found = grades.get((arm, name))
            missing = f" ({found.coverage:.0%} graded)" if found and found.coverage < 1 else ""
            cells.append(_share(found.grade) + missing if found else "")
        rows.append((name, *cells))
    note = "The rubric judge's mean grade of each criterion, 0 to 1, with its 95 % interval."
    return Table("Rubric", note, ("Criterion", *(ARM_LABELS[arm] for arm in arms)), tuple(rows))


def _style(results: Results) -> Table:
    report = results.metric_details.style
    note = "How much the answers read like the tenant's own texts."
    if report is not None:
        note += (
            f" The classifier behind Style was trained on {report.own_count} own texts and {report.base_count} answers "
            f"of the base model; on held-out texts it was right in {report.held_out_accuracy:.0%}, where 50 % is "
            "chance."
        )
    return _suite(results, "", (STYLE, STYLE_JUDGED), "Style", note)


def _labels(results: Results) -> Table:
    report = results.metric_details.labels.get(Arm.ADAPTER.value)
    classes = sorted(report.classes, key=lambda one: (-one.row_count, one.label)) if report else []
    rows = [
        (one.label, str(one.row_count), _share(one.precision), _share(one.recall), f"{one.f1:.3f}")
        for one in classes[:LABELS_SHOWN]
    ]
    note = f"The adapter's; the {len(rows)} most frequent of {len(classes)}."
    if report:
        note += f" Over all labels alike: precision {report.precision_macro:.3f}, recall {report.recall_macro:.3f}."
    return Table("Labels, one by one", note, ("Label", "Rows", "Precision", "Recall", "F1"), tuple(rows))


def _judge(results: Results) -> Table:
    judge = results.metric_details.judge
    if judge is None:
        return Table("The judge", "", (), ())
    rows = [
        ("Calls", str(judge.call_count)),
        ("Answered from the cache", str(judge.cached_count)),
        ("Unreadable answers", str(judge.parse_failure_count)),
        *((f"Failed: {reason}", str(count)) for reason, count in sorted(judge.failure_counts.items())),
    ]
    if judge.pair_count:
        rows.append(("Pairs, judged in both orders", str(judge.pair_count)))
        rows.append(("Pairs whose winner changed with the order", str(judge.disagreement_count)))
    if judge.first_position_share is not None:
        rows.append(("Verdicts for the answer shown first", f"{judge.first_position_share:.0%}"))
    note = (
        f"{judge.judge} {judge.model}. How far it agrees with people is what an annotation queue on "
        "this evaluation finds out."
    )
    return Table("The judge", note, ("What", "Count"), tuple(rows))


def _share(found: Share) -> str:
    ends = f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None and found.high is not None else ""
    return f"{found.mean:.3f}{ends}"


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


def _sequential(results: Results) -> Table:
    rows = [
        (
            f"{found.target.metric}: {ARM_LABELS[found.target.arm]} minus {ARM_LABELS[found.target.reference]} above "
            f"{found.target.at_least:g}",
            found.outcome.value,
            str(found.row_count),
            str(found.group_count),
            with_interval(found.difference, found.interval, signed=True),
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


def _missing_scores(results: Results) -> Table:
    rows = [
        (ARM_LABELS[Arm(arm)], metric, reason, str(count))
        for arm, by_metric in results.metric_details.failures.items()
        for metric, by_reason in by_metric.items()
        for reason, count in by_reason.items()
    ]
    note = "These rows stay in every mean as 0; the tables above say what they could be at worst and at best."
    return Table("Answers without a score", note, ("Arm", "Metric", "Reason", "Rows"), tuple(rows), 3)


def with_interval(value: float, interval: Interval | None, *, signed: bool = False) -> str:
    """A value, and the ends of its interval if it has one."""
    form = "+.3f" if signed else ".3f"
    shown = f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""
    return format(value, form) + shown
