"""The rule of the verdict, on intervals made by hand."""

from __future__ import annotations

import itertools

import pytest
from luthierd.evaluator.decisions.verdict import (
    Certainty,
    Option,
    Preferences,
    Standing,
    Verdict,
    exclusion,
    pair_confidence,
    recommend,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Comparison, MetricResult
from luthierd.statistics.estimates import Interval

FIVE = (Arm.BASE, Arm.PROMPTED, Arm.RAG, Arm.ADAPTER, Arm.ADAPTER_RAG)


def option(arm: Arm, value: float = 0.5, *, price: float = 0.01, coverage: int = 100, training: float = 0.0) -> Option:
    quality = MetricResult(
        arm=arm, metric=Metric("rouge_l"), value=value, interval=None, row_count=100, scored_count=coverage
    )
    return Option(
        quality=quality,
        price_per_1000=price,
        latency_ms_p50=900.0,
        latency_ms_p95=1500.0,
        refresh="again",
        refresh_s=60.0,
        refresh_price=training,
    )


def verdict(means: dict[Arm, float], *, half_width: float, preferences: Preferences | None = None) -> Verdict:
    """What is recommended where every difference is known to within `half_width`."""
    arms = [arm for arm in FIVE if arm in means]
    differences = [
        Comparison(
            metric=Metric("rouge_l"),
            arm=more,
            reference=less,
            difference=(gain := means[more] - means[less]),
            interval=Interval(gain - half_width, gain + half_width, "by hand", 40),
            minimum_detectable_effect=0.1,
            row_count=100,
            group_count=40,
        )
        for less, more in itertools.combinations(arms, 2)
    ]
    return recommend([option(arm, means[arm]) for arm in arms], differences, preferences or Preferences())


STYLE = {Arm.BASE: 0.12, Arm.PROMPTED: 0.18, Arm.RAG: 0.25, Arm.ADAPTER: 0.40, Arm.ADAPTER_RAG: 0.39}
FACTS = {Arm.BASE: 0.20, Arm.PROMPTED: 0.22, Arm.RAG: 0.80, Arm.ADAPTER: 0.30, Arm.ADAPTER_RAG: 0.70}


@pytest.mark.parametrize(
    ("means", "arm", "beginning"),
    [
        (STYLE, Arm.ADAPTER, "Fine-tune: not shown to differ from adapter_rag"),
        (FACTS, Arm.RAG, "Retrieve, do not fine-tune."),
        (
            {Arm.BASE: 0.5, Arm.PROMPTED: 0.5, Arm.ADAPTER: 0.3},
            Arm.BASE,
            "Use the base model as it is, do not fine-tune",
        ),
        ({Arm.PROMPTED: 0.5, Arm.RAG: 0.4, Arm.ADAPTER: 0.4}, Arm.PROMPTED, "Prompt, do not fine-tune."),
        ({Arm.RAG: 0.3, Arm.ADAPTER: 0.3, Arm.ADAPTER_RAG: 0.6}, Arm.ADAPTER_RAG, "Fine-tune, and retrieve."),
    ],
)
def test_the_least_effort_that_nothing_is_proved_to_beat_is_recommended(
    means: dict[Arm, float], arm: Arm, beginning: str
) -> None:
    found = verdict(means, half_width=0.05)
    assert found.recommended is arm
    assert found.headline.startswith(beginning)


def test_tuning_that_is_not_proved_better_is_not_advised() -> None:
    found = verdict({Arm.PROMPTED: 0.30, Arm.ADAPTER: 0.36}, half_width=0.07)
    assert (found.recommended, found.certainty) == (Arm.PROMPTED, Certainty.NO_DIFFERENCE_SHOWN)
    assert found.options[1].standing is Standing.NO_DIFFERENCE_SHOWN
    assert "adapter is not shown to differ from prompted: rouge_l +0.060 [-0.010, +0.130]" in found.reasons[0]
    assert "minimum detectable effect 0.100 at 80 % power" in found.reasons[0]


def test_a_way_that_is_beaten_is_not_recommended_for_its_little_effort() -> None:
    """Prompting is not proved better than base, retrieval is: base is out, and prompting is the least that stays."""
    found = verdict({Arm.BASE: 0.20, Arm.PROMPTED: 0.27, Arm.RAG: 0.34}, half_width=0.10)
    assert found.recommended is Arm.PROMPTED
    assert found.options[0].standing is Standing.WORSE


def test_every_way_left_behind_is_proved_so_or_the_verdict_says_that_no_difference_is_shown() -> None:
    assert verdict(FACTS, half_width=0.05).certainty is Certainty.PROVED
    assert verdict(FACTS, half_width=0.15).certainty is Certainty.NO_DIFFERENCE_SHOWN


def test_a_gain_below_what_it_is_worth_changes_nothing() -> None:
    means = {Arm.PROMPTED: 0.30, Arm.ADAPTER: 0.36}
    assert verdict(means, half_width=0.02).recommended is Arm.ADAPTER
    found = verdict(means, half_width=0.02, preferences=Preferences(worth=0.10))
    assert (found.recommended, found.certainty) == (Arm.PROMPTED, Certainty.PROVED)
    assert found.options[1].standing is Standing.NOT_WORTH_IT


def test_an_option_beyond_a_limit_is_excluded_and_says_by_which() -> None:
    limits = Preferences(max_price_per_1000=0.02, max_latency_ms_p95=1000.0)
    assert exclusion(option(Arm.RAG, price=0.03), limits) == "1,000 answers cost 0.03, more than 0.02"
    assert exclusion(option(Arm.RAG), limits) == "its p95 latency is 1500 ms, more than 1000 ms"
    assert exclusion(option(Arm.RAG), Preferences()) == ""


def test_an_option_with_failed_rows_is_excluded_not_flattered() -> None:
    assert "90% of its rows have a score" in exclusion(option(Arm.RAG, coverage=90), Preferences())


def test_without_intervals_there_is_no_verdict() -> None:
    blind = Comparison(
        metric=Metric("rouge_l"),
        arm=Arm.ADAPTER,
        reference=Arm.BASE,
        difference=0.4,
        interval=None,
        minimum_detectable_effect=None,
        row_count=9,
        group_count=3,
    )
    found = recommend([option(Arm.BASE), option(Arm.ADAPTER)], [blind], Preferences())
    assert (found.recommended, found.certainty) == (None, Certainty.INSUFFICIENT_EVIDENCE)
    assert found.headline == "No verdict: 3 groups of rows are too few for an interval."


def test_one_way_alone_gets_no_verdict() -> None:
    found = recommend([option(Arm.ADAPTER)], [], Preferences())
    assert (found.recommended, found.headline) == (None, "No verdict: there is nothing to compare adapter with.")


def test_the_verdict_says_after_how_many_answers_a_training_is_paid_for() -> None:
    gain = Comparison(
        metric=Metric("rouge_l"),
        arm=Arm.ADAPTER,
        reference=Arm.RAG,
        difference=0.3,
        interval=Interval(0.2, 0.4, "by hand", 40),
        minimum_detectable_effect=None,
        row_count=100,
        group_count=40,
    )
    options = [option(Arm.RAG, price=0.03), option(Arm.ADAPTER, price=0.01, training=0.5)]
    found = recommend(options, [gain], Preferences())
    assert found.reasons[-1] == "1,000 answers cost 0.0200 less than with rag: 25,000 answers pay for a training."


def test_all_intervals_hold_together() -> None:
    assert pair_confidence(2) == pytest.approx(0.95)
    assert pair_confidence(5) == pytest.approx(0.995)
    assert pair_confidence(1) == pytest.approx(0.95)
