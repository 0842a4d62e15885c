"""Which way of answering should a task use: the base model as it is, a prompt, retrieval, tuning, or both?

An option is ruled out if another one is proved better by more than `worth`; of those that remain, the one of least
effort is recommended. So more effort is only advised where it is proved to pay, and "do not fine-tune" is an ordinary
answer. All pairs are compared at once, by intervals that hold together with 95 % confidence.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.evaluator.dataset.rows import scores_by_arm, scores_on
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Comparison, MetricResult
from luthierd.statistics.compare import PairedRows

# Confidence with which all of a verdict's intervals hold together.
JOINT_CONFIDENCE = 0.95
MIN_COVERAGE = 0.95


class MetricNotByRowError(InvalidArgumentError):
    """A verdict needs a metric that is scored row by row."""

    reason = "METRIC_NOT_BY_ROW"

    def __init__(self, metric: str, known: Sequence[str]) -> None:
        description = f"{metric!r} was not computed row by row; choose one of {', '.join(known) or 'none'}"
        super().__init__(
            description,
            metadata={"metric": metric, "known": ",".join(known)},
            violations=[FieldViolation("preferences.metric", description)],
        )


class Certainty(enum.StrEnum):
    PROVED = "proved"
    NO_DIFFERENCE_SHOWN = "no_difference_shown"
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"


class Standing(enum.StrEnum):
    RECOMMENDED = "recommended"
    WORSE = "worse"
    NOT_WORTH_IT = "not_worth_it"
    NO_DIFFERENCE_SHOWN = "no_difference_shown"
    EXCLUDED = "excluded"


@dataclass(frozen=True)
class Preferences:
    """What matters. `metric` None: the task's primary one. `worth`: the smallest gain that justifies more effort. A
    limit of None is none.
    """

    metric: Metric | None = None
    worth: float = 0.0
    max_price_per_1000: float | None = None
    max_latency_ms_p95: float | None = None


DEFAULTS = Preferences()
"""The primary metric decides, every proved gain counts, and there are no limits."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way of answering: what it gives, what it takes, and how it stands; `explanation` is empty for the recommended
    one. `refresh_s`, machine seconds, and their price are None where they are not known.
    """

    quality: MetricResult
    price_per_1000: float
    latency_ms_p50: float
    latency_ms_p95: float
    refresh: str
    refresh_s: float | None = None
    refresh_price: float | None = None
    standing: Standing = Standing.EXCLUDED
    explanation: str = ""

    @property
    def arm(self) -> Arm:
        return self.quality.arm


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The recommendation and its reasons. `differences` has, for each pair of options that may be used, the one of more
    effort minus the one of less, with intervals at `interval_confidence`.
    """

    recommended: Arm | None
    certainty: Certainty
    headline: str
    reasons: tuple[str, ...] = ()
    options: tuple[Option, ...]
    differences: tuple[Comparison, ...]
    preferences: Preferences = DEFAULTS
    interval_confidence: float = JOINT_CONFIDENCE


def decide(
    results: Results,
    rows: Sequence[Mapping[str, Any]],
    preferences: Preferences = DEFAULTS,
    *,
    training_s: float | None = None,
    price_per_hour: float,
) -> Verdict:
    """The verdict on an evaluation's results and rows (`rows.write_rows`). MetricNotByRowError.

    Options are compared on the rows that all of them have scored.
    """
    scores = scores_by_arm(rows)
    known = sorted({name for found in scores.values() for name in found})
    metric = preferences.metric or results.task.primary_metric
    if metric not in known:
        raise MetricNotByRowError(metric, known)
    options = _options(results, metric, training_s=training_s, price_per_hour=price_per_hour)
    usable = [option.arm for option in options if not exclusion(option, preferences)]
    confidence = pair_confidence(len(usable))
    given = {arm: scores[arm].get(metric, {}) for arm in usable}
    common = [row for row in rows if all(row["row_id"] in found for found in given.values())]
    paired = PairedRows([row["group"] for row in common], confidence=confidence)
    values = {arm: scores_on(common, found) for arm, found in given.items()}
    differences = [
        Comparison(metric=metric, arm=more, reference=less, **vars(paired.estimate(values[more], values[less])))
        for less, more in combinations(usable, 2)
    ]
    verdict = recommend(options, differences, preferences)
    return replace(verdict, preferences=replace(preferences, metric=metric), interval_confidence=confidence)


def _options(results: Results, metric: Metric, *, training_s: float | None, price_per_hour: float) -> list[Option]:
    """By effort; those that were evaluated."""
    found = []
    for arm in sorted(Arm, key=lambda arm: arm.spec.effort):
        quality, cost = results.overall.metric(arm, metric), results.cost(arm)
        if quality is not None and cost is not None:
            # The time of a challenger's or RAFT adapter's training is not known.
            spent_s = training_s if arm.uses_adapter else None
            option = Option(
                quality=quality,
                price_per_1000=cost.cost_per_1000_answers,
                latency_ms_p50=cost.latency_ms_p50,
                latency_ms_p95=cost.latency_ms_p95,
                refresh=arm.spec.refresh,
                refresh_s=spent_s,
                refresh_price=None if spent_s is None else spent_s / 3600 * price_per_hour,
            )
            found.append(option)
    return found


def pair_confidence(option_count: int) -> float:
    """Confidence of one interval, such that those of all pairs hold together with JOINT_CONFIDENCE (Bonferroni)."""
    pairs = option_count * (option_count - 1) // 2
    return 1 - (1 - JOINT_CONFIDENCE) / max(1, pairs)


def exclusion(option: Option, preferences: Preferences) -> str:
    """Why an option may not be used; empty if it may."""
    price, latency = preferences.max_price_per_1000, preferences.max_latency_ms_p95
    if option.quality.coverage < MIN_COVERAGE:
        return f"only {option.quality.coverage:.0%} of its rows have a score, {MIN_COVERAGE:.0%} are needed"
    if price is not None and option.price_per_1000 > price:
        return f"1,000 answers cost {option.price_per_1000:.4g}, more than {price:.4g}"
    if latency is not None and option.latency_ms_p95 > latency:
        return f"its p95 latency is {option.latency_ms_p95:.0f} ms, more than {latency:.0f} ms"
    return ""


def recommend(options: Sequence[Option], differences: Sequence[Comparison], preferences: Preferences) -> Verdict:
    """The verdict on `options` by the `differences` of the usable ones, as `Verdict` has them. A pure function."""
    ordered = sorted(options, key=lambda option: option.arm.spec.effort)
    excluded = {
        option.arm: replace(option, explanation=why) for option in ordered if (why := exclusion(option, preferences))
    }
    usable = [option for option in ordered if option.arm not in excluded]
    blind = next((found for found in differences if found.interval is None), None)
    if len(usable) < 2 or blind is not None:
        why = f"{blind.group_count} groups of rows are too few for an interval" if blind else _too_few(usable)
        return Verdict(
            recommended=None,
            certainty=Certainty.INSUFFICIENT_EVIDENCE,
            headline=f"No verdict: {why}.",
            options=tuple(excluded.values()),
            differences=tuple(differences),
        )
    shown = {(found.arm, found.reference): found for found in differences}
    beaten = {option.arm: why for option in usable if (why := _beaten_by(option.arm, usable, shown, preferences.worth))}
    chosen = next(option for option in usable if option.arm not in beaten)
    placed = {option.arm: _placed(option, chosen, beaten, shown, preferences.worth) for option in usable} | excluded
    open_arms = [arm for arm, option in placed.items() if option.standing is Standing.NO_DIFFERENCE_SHOWN]
    return Verdict(
        recommended=chosen.arm,
        certainty=Certainty.NO_DIFFERENCE_SHOWN if open_arms else Certainty.PROVED,
        headline=_headline(chosen.arm, open_arms),
        reasons=(
            *(placed[option.arm].explanation for option in ordered if option is not chosen),
            *_payback(chosen, usable),
        ),
        options=tuple(placed[option.arm] for option in ordered),
        differences=tuple(differences),
    )


def _too_few(usable: Sequence[Option]) -> str:
    return f"there is nothing to compare {usable[0].arm} with" if usable else "no way of answering may be used"


def _beaten_by(arm: Arm, usable: Sequence[Option], shown: Mapping[tuple[Arm, Arm], Comparison], worth: float) -> str:
    """The option that is proved better than `arm` by the most, in a sentence; empty if none is."""
    best, sentence = worth, ""
    for option in usable:
        if option.arm is arm:
            continue
        low, text = _gain(option.arm, arm, shown)
        if low > best:
            best, sentence = low, f"{arm} is worse than {option.arm}: {text}"
    return sentence


def _gain(arm: Arm, reference: Arm, shown: Mapping[tuple[Arm, Arm], Comparison]) -> tuple[float, str]:
    """Lower end of `arm` minus `reference`, and the difference in words; the pair may be stored the other way round."""
    found = shown.get((arm, reference))
    sign = 1 if found is not None else -1
    found = found or shown[reference, arm]
    assert found.interval is not None
    ends = sorted((sign * found.interval.low, sign * found.interval.high))
    difference = sign * found.difference
    return ends[0], f"{found.metric} {difference:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}] for {arm}"


def _placed(
    option: Option,
    chosen: Option,
    beaten: Mapping[Arm, str],
    shown: Mapping[tuple[Arm, Arm], Comparison],
    worth: float,
) -> Option:
    """The option with its standing."""
    if option is chosen:
        return replace(option, standing=Standing.RECOMMENDED)
    if option.arm in beaten:
        return replace(option, standing=Standing.WORSE, explanation=beaten[option.arm] + ".")
    # Every other option that remains takes more effort than the chosen one.
    found = shown[option.arm, chosen.arm]
    assert found.interval is not None
    _, text = _gain(option.arm, chosen.arm, shown)
    if found.interval.high <= worth:
        advice = f"{option.arm} is not better than {chosen.arm}: {text}."
        return replace(option, standing=Standing.NOT_WORTH_IT, explanation=advice)
    advice = f"{option.arm} is not shown to differ from {chosen.arm}: {text}"
    if found.minimum_detectable_effect is not None:
        advice += f"; minimum detectable effect {found.minimum_detectable_effect:.3f} at 80 % power"
    return replace(option, standing=Standing.NO_DIFFERENCE_SHOWN, explanation=advice + ".")


def _headline(chosen: Arm, open_arms: Sequence[Arm]) -> str:
    if not open_arms:
        return f"{chosen.spec.advice}."
    return f"{chosen.spec.advice}: not shown to differ from {' and '.join(open_arms)}, which takes more effort."


def _payback(chosen: Option, usable: Sequence[Option]) -> list[str]:
    """After how many answers a training is paid for, each being cheaper than with retrieval; empty where it is not."""
    rival = next((option for option in usable if option.arm is Arm.RAG), None)
    if rival is None or chosen.arm is not Arm.ADAPTER or chosen.refresh_price is None:
        return []
    saved = rival.price_per_1000 - chosen.price_per_1000
    if saved <= 0:
        return []
    answers = 1000 * chosen.refresh_price / saved
    return [f"1,000 answers cost {saved:.4f} less than with rag: {answers:,.0f} answers pay for a training."]


def check_preferences(preferences: Preferences) -> None:
    """InvalidArgumentError naming the field that is out of bounds."""
    if not 0 <= preferences.worth <= 1:
        raise InvalidArgumentError.of_field("preferences.worth", f"{preferences.worth:g} is not in 0 to 1")
    for field in ("max_price_per_1000", "max_latency_ms_p95"):
        limit = getattr(preferences, field)
        if limit is not None and not (math.isfinite(limit) and limit >= 0):
            raise InvalidArgumentError.of_field(f"preferences.{field}", f"{limit:g} is not a limit: 0 or more")
