"""Votes summarised: people's means, how far they agree with each other and with a judge, and the judge's means
corrected by theirs.
"""

from __future__ import annotations

import math
import statistics as plain
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import PAIRWISE, Metric
from luthierd.evaluator.human_review.items import HIGHEST_RATING, LOWEST_RATING, Item, Mode, QueueConfig, Vote
from luthierd.statistics import clustered, compare
from luthierd.statistics.agreement import Level, cohen_kappa, krippendorff_alpha
from luthierd.statistics.estimates import Interval
from luthierd.statistics.prediction_powered import LabelledRow, prediction_powered_mean

N_RESAMPLES = 2000
TIE = 0.5


@dataclass(frozen=True)
class Estimate:
    """A mean over items; `interval` is None with too few groups."""

    value: float
    interval: Interval | None
    item_count: int


@dataclass(frozen=True, kw_only=True)
class HumanFigure:
    """One mean by people, by the judge, and by the judge corrected; the last two are None without a judge."""

    arm: Arm
    reference: Arm | None
    human: Estimate | None
    judge: Estimate | None
    corrected: Estimate | None
    judge_weight: float


@dataclass(frozen=True, kw_only=True)
class AnnotationSummary:
    """See `AnnotationSummary` of the contract; agreement is NaN where it is undefined."""

    vote_count: int
    rater_count: int
    judged_item_count: int
    item_count: int
    rater_alpha: float
    rater_kappa: float
    judge_metric: Metric | None
    judge_alpha: float
    judge_kappa: float
    figures: tuple[HumanFigure, ...]


def summarise(
    config: QueueConfig,
    items: Sequence[Item],
    votes: Sequence[Vote],
    *,
    rows: Sequence[Mapping[str, Any]],
    judge: Metric | None,
) -> AnnotationSummary:
    """`rows`: the evaluation's rows with their scores; read only with a judge."""
    said: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        said[vote.item_id].append(_value(config, vote))
    pairwise = config.mode is Mode.PAIRWISE
    scores = _judged(config, items, rows, judge) if judge else {}
    both = [(_verdict(values, pairwise), scores[item_id]) for item_id, values in said.items() if item_id in scores]
    return AnnotationSummary(
        vote_count=len(votes),
        rater_count=len({vote.rater for vote in votes}),
        judged_item_count=len(said),
        item_count=len(items),
        rater_alpha=krippendorff_alpha(list(said.values()), Level.NOMINAL if pairwise else Level.ORDINAL),
        rater_kappa=_mean_kappa(config, votes),
        judge_metric=judge,
        judge_alpha=krippendorff_alpha(both, Level.NOMINAL if pairwise else Level.INTERVAL),
        judge_kappa=cohen_kappa(*zip(*both, strict=True)) if pairwise and both else math.nan,
        figures=tuple(_figure(config, arms, items, said, scores) for arms in _quantities(config)),
    )


def _quantities(config: QueueConfig) -> list[tuple[Arm, ...]]:
    """The arms of each result: both for a comparison, one for each rating."""
    return [config.arms] if config.mode is Mode.PAIRWISE else [(arm,) for arm in config.arms]


def _value(config: QueueConfig, vote: Vote) -> float:
    """A vote as a number: 1, 0 or a half for the queue's first arm; a rating from 0 to 1."""
    if config.mode is Mode.RATING:
        return ((vote.rating or LOWEST_RATING) - LOWEST_RATING) / (HIGHEST_RATING - LOWEST_RATING)
    return TIE if vote.preferred is None else float(vote.preferred is config.arms[0])


def _verdict(values: Sequence[float], pairwise: bool) -> float:
    """The raters' word on an item: the majority's choice, a tie without one; the mean rating."""
    if not pairwise:
        return plain.fmean(values)
    top = [value for value in set(values) if 2 * values.count(value) > len(values)]
    return top[0] if top else TIE


def _judged(
    config: QueueConfig, items: Sequence[Item], rows: Sequence[Mapping[str, Any]], judge: Metric
) -> dict[str, float]:
    """What the judge says of each item that it scored, as a number like a vote."""
    by_row = {row["row_id"]: {Arm(one["arm"]): one["scores"].get(judge) for one in row["answers"]} for row in rows}
    found = {}
    for item in items:
        values = [by_row.get(item.row_id, {}).get(arm) for arm in item.arms]
        own = values[0]
        if config.mode is Mode.RATING:
            if own is not None:
                found[item.item_id] = float(own)
        elif judge == PAIRWISE and item.arms[1] is Arm.BASE and own is not None:
            found[item.item_id] = float(own)  # this metric is already the preference over base
        elif own is not None and values[1] is not None:
            found[item.item_id] = TIE if own == values[1] else float(own > values[1])
    return found


def _mean_kappa(config: QueueConfig, votes: Sequence[Vote]) -> float:
    """The mean over pairs of raters; a pair whose kappa cannot be told is left out."""
    by_rater: dict[str, dict[str, float]] = defaultdict(dict)
    for vote in votes:
        by_rater[vote.rater][vote.item_id] = _value(config, vote)
    found = []
    for first, second in combinations(by_rater.values(), 2):
        common = sorted(first.keys() & second.keys())
        found.append(cohen_kappa([first[item] for item in common], [second[item] for item in common]))
    told = [kappa for kappa in found if not math.isnan(kappa)]
    return plain.fmean(told) if told else math.nan


def _figure(
    config: QueueConfig,
    arms: tuple[Arm, ...],
    items: Sequence[Item],
    said: Mapping[str, Sequence[float]],
    scores: Mapping[str, float],
) -> HumanFigure:
    own = [item for item in items if item.arms == arms]
    human = [(plain.fmean(said[item.item_id]), item.group) for item in own if item.item_id in said]
    judged = [(scores[item.item_id], item.group) for item in own if item.item_id in scores]
    powered = prediction_powered_mean(
        [
            LabelledRow(
                scores[item.item_id], plain.fmean(said[item.item_id]) if item.item_id in said else None, item.group
            )
            for item in own
            if item.item_id in scores
        ]
    )
    return HumanFigure(
        arm=arms[0],
        reference=arms[1] if len(arms) > 1 else None,
        human=_mean(human, config.seed),
        judge=_mean(judged, config.seed),
        corrected=Estimate(powered.value, powered.interval, len(judged)) if powered else None,
        judge_weight=powered.weight if powered else 0.0,
    )


def _mean(values: Sequence[tuple[float, str]], seed: int) -> Estimate | None:
    if not values:
        return None
    data = clustered.mean_of([value for value, _ in values], [group for _, group in values])
    return Estimate(data.value(), compare.mean_interval(data, seed=seed, n_resamples=N_RESAMPLES), len(values))
