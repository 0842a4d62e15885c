"""Figures of an evaluation for people: no number without its interval, its coverage, and what failures could make of
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from luthier.cli.session import Session
from luthier.display import interval

if TYPE_CHECKING:
    from luthier.evaluator.v1.evaluation_pb2 import Evaluation, MetricValue, PairedDifference


def mean(value: MetricValue) -> str:
    """Mean and interval; where rows have no score also their share, and the mean with them at worst and at best."""
    if not value.coverage:
        return "no row has a score"
    text = interval(value.mean, value.interval_low, value.interval_high)
    if value.coverage < 1:
        text += f" ({value.coverage:.0%} of rows), {value.worst_mean:.3f} to {value.best_mean:.3f}"
    return text


def show_differences(session: Session, differences: Iterable[PairedDifference]) -> None:
    """One line a difference. What failures could make of it, and the rows that both arms have a score on, stand beside
    it where rows have none.
    """
    from luthier.display import arm_name

    rows = []
    for one in differences:
        missing = one.common_row_count < one.row_count
        rows.append(
            (
                one.metric,
                f"{arm_name(one.arm)} - {arm_name(one.reference)}",
                interval(one.difference, one.interval_low, one.interval_high),
                "" if math.isnan(one.adjusted_p_value) else f"{one.adjusted_p_value:.2g}",
                f"{one.worst_difference:+.3f} to {one.best_difference:+.3f}" if missing else "",
                _common(one) if missing else "",
                one.row_count,
                one.group_count,
            )
        )
    columns = ["metric", "difference of", "#estimate", "#p (Holm)", "#failures at worst, best", "#on common rows"]
    title = "paired differences [95 % interval, clustered by group]"
    session.table([*columns, "#rows", "#groups"], rows, title=title)


def show_slices(session: Session, evaluation: Evaluation) -> None:
    """The first metric of every arm, slice by slice; all figures are in --json. Nothing without slices."""
    from luthier.display import arm_name

    if not evaluation.slices:
        return
    arms = [arm.arm for arm in evaluation.arms]
    metric = next((value.metric for arm in evaluation.arms for value in arm.metrics), "")
    rows = []
    for part in evaluation.slices:
        found = {arm.arm: value for arm in part.arms for value in arm.metrics if value.metric == metric}
        cells = [mean(found[arm]) if arm in found else "" for arm in arms]
        rows.append((part.slice, part.row_count, part.group_count, *cells))
    columns = ["slice", "#rows", "#groups", *(f"#{arm_name(arm)}" for arm in arms)]
    session.table(columns, rows, title=f"{metric} by slice [95 % interval]")


def _common(one: PairedDifference) -> str:
    text = interval(one.common_difference, one.common_interval_low, one.common_interval_high)
    return f"{text} ({one.common_row_count} rows)"
