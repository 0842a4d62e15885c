"""Which way of answering should a task use: the base model as it is, a prompt, retrieval, tuning, or both?

The rule, in words: an option goes out if another one is proved better by more than `worth`; of those that stay, the one
of least effort is recommended. So more effort is only ever advised where it is proved to pay, and "do not fine-tune" is
an ordinary answer. All pairs are judged at once, each by an interval so wide that all hold together with 95 %.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.scores import Comparison, MetricResult

# Least effort first: what has to be built, and built again when the data changes.
EFFORT = (
    Arm.BASE,
    Arm.PROMPTED,
    Arm.ENDPOINT,
    Arm.RAG,
    Arm.ADAPTER,
    Arm.CHALLENGER,
    Arm.ADAPTER_RAG,
    Arm.ADAPTER_RAFT,
)
ADVICE = {
    Arm.BASE: "Use the base model as it is, do not fine-tune",
    Arm.PROMPTED: "Prompt, do not fine-tune",
    Arm.ENDPOINT: "Ask the endpoint's model, do not fine-tune",
    Arm.RAG: "Retrieve, do not fine-tune",
    Arm.ADAPTER: "Fine-tune",
    Arm.CHALLENGER: "Fine-tune, by the challenger",
    Arm.ADAPTER_RAG: "Fine-tune, and retrieve",
    Arm.ADAPTER_RAFT: "Fine-tune for retrieval, and retrieve",
}
# Confidence with which all of a verdict's intervals hold together.
JOINT_CONFIDENCE = 0.95
MIN_COVERAGE = 0.95


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
    """What matters. `worth`: the least gain that justifies more effort; limits are None where there is none."""

    worth: float = 0.0
    max_price_per_1000: float | None = None
    max_latency_ms_p95: float | None = None


@dataclass(frozen=True)
class Refresh:
    """What has to be done again when the data changes. `seconds` of the machine, and their price, are None where they
    were not measured.
    """

    work: str
    seconds: float | None = None
    price: float | None = None


@dataclass(frozen=True)
class Option:
    """One way of answering, with what it gives and what it takes."""

    quality: MetricResult
    price_per_1000: float
    latency_ms_p50: float
    latency_ms_p95: float
    refresh: Refresh

    @property
    def arm(self) -> Arm:
        return self.quality.arm


@dataclass(frozen=True)
class JudgedOption:
    """An option and what became of it; `explanation` is empty for the recommended one."""

    option: Option
    standing: Standing
    explanation: str = ""


@dataclass(frozen=True)
class Verdict:
    """The recommendation with its reasons. `differences` holds, for each pair of options that may be used, the one of
    more effort minus the one of less.
    """

    recommended: Arm | None
    certainty: Certainty
    headline: str
    reasons: tuple[str, ...]
    options: tuple[JudgedOption, ...]
    differences: tuple[Comparison, ...]


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
    """The verdict over `options` by the `differences` of the usable ones, as `Verdict` has them. A pure function."""
    ordered = sorted(options, key=lambda option: EFFORT.index(option.arm))
    excluded = {option.arm: why for option in ordered if (why := exclusion(option, preferences))}
    usable = [option for option in ordered if option.arm not in excluded]
    shown = {(found.arm, found.reference): found for found in differences}
    out = [
        JudgedOption(option, Standing.EXCLUDED, excluded[option.arm]) for option in ordered if option.arm in excluded
    ]
    blind = next((found for found in differences if found.interval is None), None)
    if len(usable) < 2 or blind is not None:
        why = f"{blind.group_count} groups of rows are too few for an interval" if blind else _too_few(usable)
        return Verdict(None, Certainty.INSUFFICIENT_EVIDENCE, f"No verdict: {why}.", (), tuple(out), tuple(differences))
    beaten = {option.arm: why for option in usable if (why := _beaten_by(option.arm, usable, shown, preferences.worth))}
    chosen = next(option for option in usable if option.arm not in beaten)
    judged = [_judged(option, chosen, beaten, shown, preferences.worth) for option in usable]
    by_arm = {found.option.arm: found for found in [*judged, *out]}
    open_arms = [found.option.arm for found in judged if found.standing is Standing.NO_DIFFERENCE_SHOWN]
    return Verdict(
        recommended=chosen.arm,
        certainty=Certainty.NO_DIFFERENCE_SHOWN if open_arms else Certainty.PROVED,
        headline=_headline(chosen.arm, open_arms),
        reasons=(
            *(by_arm[option.arm].explanation for option in ordered if option is not chosen),
            *_payback(chosen, usable),
        ),
        options=tuple(by_arm[option.arm] for option in ordered),
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
    """Lower end of `arm` minus `reference`, and the difference in words; the pair may be kept the other way round."""
    found = shown.get((arm, reference))
    sign = 1 if found is not None else -1
    found = found or shown[reference, arm]
    assert found.interval is not None
    ends = sorted((sign * found.interval.low, sign * found.interval.high))
    difference = sign * found.difference
    return ends[0], f"{found.metric} {difference:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}] for {arm}"


def _judged(
    option: Option,
    chosen: Option,
    beaten: Mapping[Arm, str],
    shown: Mapping[tuple[Arm, Arm], Comparison],
    worth: float,
) -> JudgedOption:
    if option is chosen:
        return JudgedOption(option, Standing.RECOMMENDED)
    if option.arm in beaten:
        return JudgedOption(option, Standing.WORSE, beaten[option.arm] + ".")
    # Whatever stays takes more effort than the chosen one.
    found = shown[option.arm, chosen.arm]
    assert found.interval is not None
    _, text = _gain(option.arm, chosen.arm, shown)
    if found.interval.high <= worth:
        return JudgedOption(option, Standing.NOT_WORTH_IT, f"{option.arm} is not better than {chosen.arm}: {text}.")
    advice = f"no difference shown between {option.arm} and {chosen.arm}: {text}"
    if found.minimum_detectable_effect is not None:
        advice += f"; such rows show a difference from about {found.minimum_detectable_effect:.3f} on"
    return JudgedOption(option, Standing.NO_DIFFERENCE_SHOWN, advice + ".")


def _headline(chosen: Arm, open_arms: Sequence[Arm]) -> str:
    if not open_arms:
        return f"{ADVICE[chosen]}."
    return f"{ADVICE[chosen]}: no difference shown to {' and '.join(open_arms)}, which takes more effort."


def _payback(chosen: Option, usable: Sequence[Option]) -> list[str]:
    """After how many answers a training is paid for, each being cheaper than with retrieval; empty where it is not."""
    rival = next((option for option in usable if option.arm is Arm.RAG), None)
    if rival is None or chosen.arm is not Arm.ADAPTER or chosen.refresh.price is None:
        return []
    saved = rival.price_per_1000 - chosen.price_per_1000
    if saved <= 0:
        return []
    answers = 1000 * chosen.refresh.price / saved
    return [f"1,000 answers cost {saved:.4f} less than with rag: {answers:,.0f} answers pay for a training."]
