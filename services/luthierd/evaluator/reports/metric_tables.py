"""The parts of the report about measures that only some evaluations ask for, as tables: a rubric's criteria, style,
labels one by one, challenge cases, forgetting, bias, tasks of lm-eval, the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metric_details import Share
from luthierd.evaluator.domain.metrics import STYLE, STYLE_JUDGED, Metric
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.evaluator.reports.sections import Table, arm_row, figure
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
from luthierd.evaluator.suites import counterfactual_suite, lm_suite
from luthierd.evaluator.suites import retention_suite as retention_suite

CHALLENGE = (EXPECTED_BEHAVIOUR, ABSTENTION_PRECISION, ABSTENTION_RECALL)
FORGETTING = (FORGETTING_LIKELIHOOD, FORGETTING_CHOICE, FORGETTING_INSTRUCTIONS)
# Rarer labels are only in the API: a report with hundreds of labels is unreadable.
LABELS_SHOWN = 12


def measure_tables(results: Results, arm_labels: Mapping[Arm, str]) -> list[Table]:
    """Every table that has rows. People's votes come after an evaluation, which is immutable, and are not here."""
    made = (
        _criteria(results, arm_labels),
        _style(results, arm_labels),
        _labels(results),
        _metrics(results, CHALLENGE, "Challenge cases", "Vague, hostile, incomplete or out of scope.", arm_labels),
        _metrics(
            results,
            FORGETTING,
            "Forgetting",
            "General text, choices and instructions that have nothing to do with the task. Below zero in the last "
            "column is what tuning lost. Bits per byte: lower is better.",
            arm_labels,
            suite=retention_suite.NAME,
        ),
        _metrics(
            results,
            (COUNTERFACTUAL_STABILITY,),
            "Bias",
            "The same question with a name, gender or origin exchanged. Stability: the share of pairs with one and the "
            "same answer; flip rates: the share that changed, by what was exchanged.",
            arm_labels,
            suite=counterfactual_suite.NAME,
        ),
        _lm_tasks(results, arm_labels),
        _judge(results),
    )
    return [table for table in made if table.rows]


def _metrics(
    results: Results,
    metrics: Sequence[Metric],
    title: str,
    note: str,
    arm_labels: Mapping[Arm, str],
    *,
    suite: str = "",
) -> Table:
    """Metrics by arm, with the adapter's paired difference to base, then the figures of `suite`."""
    further = [one for result in results.suites if result.suite == suite for one in result.figures]
    measured = {one.arm for one in results.overall.metrics if one.metric in metrics} | {one.arm for one in further}
    arms = [arm for arm in arm_labels if arm in measured]
    rows = []
    for metric in metrics:
        rows += _row(spec_of(metric).title, results.overall, metric, arms)
    for quantity in dict.fromkeys(one.quantity for one in further):
        by_arm = {one.arm: one for one in further if one.quantity == quantity}
        cells = [figure(by_arm[arm].value, by_arm[arm].interval) if arm in by_arm else "" for arm in arms]
        items = max(one.item_count for one in by_arm.values())
        rows.append((quantity.replace("_", " "), str(items), *cells, ""))
    heads = ("Quantity", "Items", *(arm_labels[arm] for arm in arms), "Adapter minus Base")
    return Table(title, note, heads, tuple(rows))


def _row(label: str, figures: MetricResults, metric: Metric, arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """The metric by arm and the adapter's paired difference to base; no row if nothing was scored."""
    found = [figures.metric(arm, metric) for arm in arms]
    count = max((one.row_count for one in found if one and one.scored_count), default=0)
    return [arm_row(label, count, figures, metric, arms, Arm.BASE)] if count else []


def _lm_tasks(results: Results, arm_labels: Mapping[Arm, str]) -> Table:
    """All tasks of lm-evaluation-harness together, then each."""
    measured = {one.arm for one in results.overall.metrics if one.metric == LM_EVAL}
    arms = [arm for arm in arm_labels if arm in measured]
    rows = _row("all tasks", results.overall, LM_EVAL, arms)
    for name, figures in results.slices.items():
        rows += _row(name.removeprefix(f"{lm_suite.NAME}:"), figures, LM_EVAL, arms)
    heads = ("Task", "Items", *(arm_labels[arm] for arm in arms), "Adapter minus Base")
    note = "Asked of base and adapter as lm-eval writes them and scored by it. Below zero in the last column is a loss."
    return Table("Tasks of lm-evaluation-harness", note, heads, tuple(rows))


def _criteria(results: Results, arm_labels: Mapping[Arm, str]) -> Table:
    by_arm = results.metric_details.criteria
    arms = [arm for arm in arm_labels if by_arm.get(arm.value)]
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
    return Table("Rubric", note, ("Criterion", *(arm_labels[arm] for arm in arms)), tuple(rows))


def _style(results: Results, arm_labels: Mapping[Arm, str]) -> Table:
    report = results.metric_details.style
    note = "How much the answers read like the tenant's own texts."
    if report is not None:
        note += (
            f" The classifier behind Style learned from {report.own_count} own texts and {report.base_count} answers "
            f"of the base model; on texts that it had not seen it was right in {report.held_out_accuracy:.0%}, 50 % "
            "being chance."
        )
    return _metrics(results, (STYLE, STYLE_JUDGED), "Style", note, arm_labels)


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
        ("Questions asked", str(judge.call_count)),
        ("Answered from what was asked before", str(judge.cached_count)),
        ("Unreadable answers", str(judge.parse_failure_count)),
        *((f"Failed: {reason}", str(count)) for reason, count in sorted(judge.failure_counts.items())),
    ]
    if judge.pair_count:
        rows.append(("Pairs, asked in both orders", str(judge.pair_count)))
        rows.append(("Pairs whose winner changed with the order", str(judge.disagreement_count)))
    if judge.first_position_share is not None:
        rows.append(("Verdicts for whichever stood first", f"{judge.first_position_share:.0%}"))
    note = (
        f"{judge.judge} {judge.model}. How far it agrees with people is measured by a annotation queue on this "
        "evaluation, after it."
    )
    return Table("The judge", note, ("What", "Count"), tuple(rows))


def _share(found: Share) -> str:
    ends = f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None and found.high is not None else ""
    return f"{found.mean:.3f}{ends}"
