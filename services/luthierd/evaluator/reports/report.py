"""The report: one self-contained HTML file. The verdict on top, every number with its interval and coverage, nothing
fetched from the network; answers of models are untrusted text and always escaped.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from luthierd.codec import to_json
from luthierd.evaluator.decisions.gate import judge
from luthierd.evaluator.decisions.gate_policy import default_policy
from luthierd.evaluator.decisions.verdict import decide
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ArmCost, Confusion, MetricResult
from luthierd.evaluator.models.arms import shorten
from luthierd.evaluator.reports.plots import ForestLine, PlanePoint, cost_quality_plane, forest_plot
from luthierd.evaluator.reports.tables import ARM_LABELS, metric_tables, other_tables
from luthierd.evaluator.scorers.registry import known_metrics, spec_of
from luthierd.statistics.clustered import MIN_GROUPS

WORST_COUNT = 6
MATRIX_LABELS = 12
REST = "(rest)"
QUESTION_CHARACTERS = 420


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What a report is made of. `rows` are those of `rows.write_rows`; `shown` has the texts of what was
    retrieved or shown, by id.
    """

    name: str
    inputs: EvaluationInputs
    config: EvaluationConfig
    results: Results
    rows: Sequence[Mapping[str, Any]]
    confusions: Mapping[Arm, Confusion]
    shown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A mean in the table. `share` is the width of its bar, 0 to 100; `is_best` marks the best arm of the metric;
    `failures` says what failed rows could make of the mean, empty where none failed.
    """

    value: str = "-"
    interval: str = ""
    coverage: str = ""
    share: float = 0.0
    is_best: bool = False
    failures: str = ""


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A row on which the adapter did worse than the rival. `shown`: id and text of what the rival was shown."""

    row_id: str
    group: str
    question: str
    reference: str
    rival: str
    rival_score: float
    adapter: str
    adapter_score: float
    shown: tuple[tuple[str, str], ...]

    @property
    def difference(self) -> float:
        return self.adapter_score - self.rival_score


def render_report(data: ReportData) -> str:
    """The whole page. The same data gives the same bytes."""
    primary = data.results.task.primary_metric
    measured = {found.metric for found in data.results.overall.metrics}
    metrics = [metric for metric in known_metrics() if metric in measured and not spec_of(metric).needs.suite]
    compared = [metric for metric in known_metrics() if metric in measured]
    decision = judge(default_policy(data.results.overall, data.results.task), data.results.overall)
    rival = strongest_rival(data.results, primary)
    verdict = decide(data.results, data.rows, price_per_hour=data.config.machine_price_per_hour)
    context = {
        "data": data,
        "decision": decision,
        "verdict": verdict,
        "headline": verdict.headline,
        "primary": spec_of(primary).title,
        "arms": data.config.arms,
        "arm_labels": ARM_LABELS,
        "metric_labels": {metric: spec_of(metric).title for metric in compared},
        "metrics": metrics,
        "cells": {arm: {metric: cell(data.results, arm, metric) for metric in metrics} for arm in data.config.arms},
        "costs": {cost.arm: cost for cost in data.results.costs},
        "forest": forest_plot(forest_lines(data.results, compared)),
        "plane": cost_quality_plane(plane_points(data.results, primary), quality_label=spec_of(primary).title),
        "rival": rival,
        "tables": metric_tables(data.results) + other_tables(data.results, primary, rival),
        "holdout_warning": data.results.holdout_use.warning if data.results.holdout_use else "",
        "regressions": regressions(data.rows, primary, rival, data.shown) if rival else [],
        "confusion": confusion_table(data.confusions.get(Arm.ADAPTER)),
        "failures": failures(data.rows),
        "least_groups": MIN_GROUPS,
        "lineage": to_json(data.inputs),
        "settings": to_json(data.config),
    }
    return _environment().get_template("report.html.j2").render(context)


def strongest_rival(results: Results, metric: Metric) -> Arm | None:
    """The arm without the adapter that scores best."""
    found = [one for one in results.overall.metrics if one.metric == metric and not one.arm.uses_adapter]
    return max(found, key=lambda one: one.value).arm if found else None


def cell(results: Results, arm: Arm, metric: Metric) -> Cell:
    """One mean of the table."""
    found = results.overall.metric(arm, metric)
    if found is None:
        return Cell()
    if not found.scored_count:
        return Cell(interval="no row has a score", coverage=f"{found.coverage:.0%}")
    best = max(one.value for one in results.overall.metrics if one.metric == metric)
    return Cell(
        value=f"{found.value:.3f}",
        interval=f"{found.interval.low:.3f} to {found.interval.high:.3f}" if found.interval else "no interval",
        coverage=f"{found.coverage:.0%}",
        share=max(0.0, min(100.0, 100 * found.value)),
        is_best=math.isclose(found.value, best) and best > 0,
        failures=_failures(found),
    )


def _failures(found: MetricResult) -> str:
    if found.coverage == 1:
        return ""
    missing = f"{found.coverage:.0%} of rows"
    return missing + (f"; {found.bounds.worst:.3f} to {found.bounds.best:.3f}" if found.bounds else "")


def forest_lines(results: Results, metrics: Sequence[Metric]) -> list[ForestLine]:
    """The adapter against each other arm, metric by metric."""
    references = (Arm.BASE, Arm.PROMPTED, Arm.RAG)
    lines = []
    for metric in metrics:
        for reference in references:
            found = results.overall.comparison(metric, Arm.ADAPTER, reference)
            own, other = (results.overall.metric(arm, metric) for arm in (Arm.ADAPTER, reference))
            # Where an arm has no score at all, a difference says nothing of the two.
            if found is not None and own and other and own.scored_count and other.scored_count:
                ends = (found.interval.low, found.interval.high) if found.interval else None
                lines.append(
                    ForestLine(spec_of(metric).title, reference, f"vs {ARM_LABELS[reference]}", found.difference, ends)
                )
    return lines


def plane_points(results: Results, metric: Metric) -> list[PlanePoint]:
    """Cost and quality of every arm."""
    return [
        PlanePoint(found.arm, ARM_LABELS[found.arm], cost.cost_per_1000_answers, found.value, _ends(found))
        for found in results.overall.metrics
        if found.metric == metric and (cost := results.cost(found.arm)) is not None
    ]


def regressions(
    rows: Sequence[Mapping[str, Any]], metric: Metric, rival: Arm, shown: Mapping[str, str]
) -> list[Regression]:
    """The rows on which the adapter lost most to `rival`, worst first; only rows on which it lost."""
    found = []
    for row in rows:
        answers = {answer["arm"]: answer for answer in row["answers"]}
        own, other = answers.get(Arm.ADAPTER.value), answers.get(rival.value)
        if own is None or other is None or metric not in other["scores"]:
            continue
        found.append(
            Regression(
                row_id=row["row_id"],
                group=row["group"],
                question=shorten(row["question"], QUESTION_CHARACTERS),
                reference=row["reference"],
                rival=other["text"],
                rival_score=other["scores"][metric],
                adapter=own["text"] or f"(no answer: {own['error_reason']})",
                adapter_score=own["scores"].get(metric, 0.0),
                shown=tuple(
                    (one, shorten(shown[one], QUESTION_CHARACTERS)) for one in other["shown_row_ids"] if one in shown
                ),
            )
        )
    lost = [one for one in found if one.difference < 0]
    return sorted(lost, key=lambda one: (one.difference, one.row_id))[:WORST_COUNT]


@dataclass(frozen=True)
class ConfusionTable:
    """Counts by reference label (rows) and given label (columns), the most frequent labels first. Rarer labels share a
    row and a column; `largest` is the greatest count outside the diagonal.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    largest: int


def confusion_table(confusion: Confusion | None) -> ConfusionTable | None:
    """The matrix as it is shown; None where there are no labels."""
    if confusion is None or not confusion.counts:
        return None
    frequency = Counter[str]()
    for (true, _), count in confusion.counts.items():
        frequency[true] += count
    shown = [label for label, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0]))]
    kept = shown if len(shown) <= MATRIX_LABELS else [*shown[: MATRIX_LABELS - 1], REST]
    columns = [*kept, Confusion.OTHER]
    table = Counter[tuple[str, str]]()
    for (true, said), count in confusion.counts.items():
        row = true if true in kept else REST
        table[row, said if said in columns else REST] += count
    counts = tuple(tuple(table[row, column] for column in columns) for row in kept)
    wrong = [table[row, column] for row in kept for column in columns if row != column]
    return ConfusionTable(tuple(kept), tuple(columns), counts, max(wrong, default=0))


def failures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """(arm, reason, count) of queries without an answer."""
    counts = Counter(
        (answer["arm"], answer["error_reason"]) for row in rows for answer in row["answers"] if answer["error_reason"]
    )
    return [(arm, reason, count) for (arm, reason), count in sorted(counts.items())]


def _ends(found: MetricResult) -> tuple[float, float] | None:
    return (found.interval.low, found.interval.high) if found.interval else None


def _seconds(cost: ArmCost) -> str:
    return f"{cost.busy_s:.1f}"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("luthierd.evaluator.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = _seconds
    return environment
