"""Confidence sequences and sequential evaluations: they hold at every look, stop early, and decide the same again."""

from __future__ import annotations

import asyncio
import dataclasses
import math

import numpy as np
import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.sequential import SequentialConfig, SequentialOutcome
from luthierd.evaluator.domain.sequential import SequentialTarget as Target
from luthierd.evaluator.run.config_rules import check_config
from luthierd.evaluator.run.sequential import MetricNotMeasuredError, rounds_of, run_rounds
from luthierd.statistics import confidence_sequences as sequences
from scipy import optimize
from support.evaluator_material import (
    FakePeers,
    MemoryBlobs,
    MemorySampleStore,
    ScriptedModel,
    adapter_knows,
    quick_run,
    rows,
)

NAME = "tenants/acme/evaluations/e1"
ARMS = (Arm.BASE, Arm.PROMPTED, Arm.ADAPTER)
CONFIG = EvaluationConfig(
    arms=ARMS, shot_count=2, resample_count=200, sequential=SequentialConfig(round_size=20), concurrency=4
)


def test_the_half_width_is_the_published_formula() -> None:
    # Waudby-Smith et al. 2024: sqrt(2 (t rho^2 + 1) / (t^2 rho^2) log(sqrt(t rho^2 + 1) / alpha)).
    t, alpha = 50.0, 0.05
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / 80
    expected = math.sqrt(2 * (t * rho2 + 1) / (t * t * rho2) * math.log(math.sqrt(t * rho2 + 1) / alpha))
    assert sequences.half_width(t, alpha=alpha, tuned_group_count=80) == pytest.approx(expected)


def test_the_tuning_makes_the_interval_narrowest_where_it_says() -> None:
    def width(log_tuned: float) -> float:
        return sequences.half_width(100, alpha=0.01, tuned_group_count=math.exp(log_tuned))

    best = optimize.minimize_scalar(width, bounds=(0, 10), method="bounded")
    assert width(math.log(100)) == pytest.approx(best.fun, rel=0.01)


def test_the_sequence_errs_at_any_look_less_often_than_alpha_with_clusters_and_skew() -> None:
    rng = np.random.default_rng(5)
    misses, samples = 0, 600
    for _ in range(samples):
        sizes = rng.integers(1, 6, 120)
        effects = rng.exponential(0.2, 120) - 0.2
        groups = np.repeat(np.arange(120), sizes)
        values = np.clip(effects[groups] + rng.normal(0, 0.2, len(groups)), -1, 1)
        truth = 0.0
        for count in range(20, 121, 20):
            seen = groups < count
            mean = sequences.group_mean(values[seen].tolist(), groups[seen].astype(str).tolist(), value_range=2.0)
            interval = sequences.running_interval(mean, alpha=0.05, tuned_group_count=60)
            assert interval is not None
            if not interval.low <= truth <= interval.high:
                misses += 1
                break
    assert misses / samples <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / samples)


def test_rows_that_all_agree_do_not_make_certainty() -> None:
    mean = sequences.group_mean([1.0] * 20, [str(number) for number in range(20)], value_range=2.0)
    interval = sequences.running_interval(mean, alpha=0.01, tuned_group_count=100)
    assert interval is not None
    assert interval.high - interval.low > 0.1


def test_before_twenty_groups_there_is_no_look() -> None:
    mean = sequences.group_mean([0.5] * 19, [str(number) for number in range(19)], value_range=2.0)
    assert sequences.running_interval(mean, alpha=0.01, tuned_group_count=100) is None


def test_rounds_take_whole_groups_in_an_order_of_the_seed() -> None:
    given = rows(60)
    batches = rounds_of(given, 10, seed=1)
    assert sorted(row.id for batch in batches for row in batch) == sorted(row.id for row in given)
    assert all(len(batch) >= 10 for batch in batches[:-1])
    places = {row.group: number for number, batch in enumerate(batches) for row in batch}
    assert all(places[row.group] == number for number, batch in enumerate(batches) for row in batch)
    assert batches == rounds_of(given, 10, seed=1)
    assert batches != rounds_of(given, 10, seed=2)


def run_of(peers: FakePeers, blobs: MemoryBlobs, chat_model: ScriptedModel, samples: MemorySampleStore | None = None):
    return quick_run(NAME, peers, blobs, config=CONFIG, chat_model=chat_model, samples=samples)


async def test_clear_differences_are_decided_early_and_the_verdict_is_that_of_all_rows() -> None:
    blobs = MemoryBlobs()
    peers = FakePeers(blobs, holdout=600)
    chat_model = ScriptedModel(adapter_knows)
    results = await run_of(peers, blobs, chat_model).run()
    assert [decision.outcome for decision in results.sequential_decisions] == [SequentialOutcome.ABOVE] * 2
    assert {decision.row_count for decision in results.sequential_decisions} == {results.overall.metrics[0].row_count}
    assert len(chat_model.calls) <= results.row_count * 3 * 0.25
    found = results.overall.comparison(Metric("rouge_l"), Arm.ADAPTER, Arm.BASE)
    assert found is not None
    assert found.interval is not None
    assert found.interval.method == sequences.METHOD
    assert found.interval.low > 0
    assert {cost.answered_count for cost in results.costs} == {found.row_count}


async def test_an_arm_whose_differences_are_decided_is_asked_no_more() -> None:
    def script(arm: Arm, messages: object) -> str:
        return "nothing" if arm is Arm.BASE else adapter_knows(Arm.ADAPTER, messages)  # type: ignore[arg-type, return-value]

    blobs = MemoryBlobs()
    chat_model = ScriptedModel(script)
    results = await run_of(FakePeers(blobs, holdout=300), blobs, chat_model).run()
    by_reference = {decision.target.reference: decision for decision in results.sequential_decisions}
    assert by_reference[Arm.BASE].outcome is SequentialOutcome.ABOVE
    assert by_reference[Arm.PROMPTED].outcome in (SequentialOutcome.FUTILE, SequentialOutcome.EXHAUSTED)
    asked = {cost.arm: cost.answered_count for cost in results.costs}
    assert asked[Arm.BASE] == by_reference[Arm.BASE].row_count < asked[Arm.PROMPTED] == asked[Arm.ADAPTER]


class Stopped(Exception):
    """The worker's death."""


async def test_a_resumed_run_asks_only_what_is_missing_and_ends_the_same() -> None:
    blobs, samples = MemoryBlobs(), MemorySampleStore()
    peers = FakePeers(blobs, holdout=600)
    whole = ScriptedModel(adapter_knows)
    expected = await run_of(peers, blobs, whole).run()
    first = ScriptedModel(adapter_knows)

    def dying(arm: Arm, messages: object) -> str:
        if len(first.calls) > 70:
            raise Stopped
        return adapter_knows(arm, messages)  # type: ignore[arg-type, return-value]

    first._script = dying  # type: ignore[assignment]
    with pytest.raises(Stopped):
        await run_of(peers, blobs, first, samples).run()
    kept = len(samples.kept)
    second = ScriptedModel(adapter_knows)
    resumed = await run_of(peers, blobs, second, samples).run()
    assert kept + len(second.calls) == len(whole.calls)
    assert resumed.sequential_decisions == expected.sequential_decisions
    assert resumed.overall == expected.overall


async def test_a_small_holdout_is_asked_in_full_and_says_so() -> None:
    blobs = MemoryBlobs()
    results = await run_of(FakePeers(blobs), blobs, ScriptedModel(adapter_knows)).run()
    assert {decision.outcome for decision in results.sequential_decisions} == {SequentialOutcome.EXHAUSTED}
    assert all(decision.row_count == 24 for decision in results.sequential_decisions)


async def test_a_target_that_is_not_measured_here_stops_the_run() -> None:
    blobs = MemoryBlobs()
    sequential = SequentialConfig(targets=(Target(Metric("chrf"), Arm.ADAPTER, Arm.BASE),))
    config = dataclasses.replace(CONFIG, arms=(Arm.BASE, Arm.ADAPTER), sequential=sequential)
    with pytest.raises(MetricNotMeasuredError):
        await quick_run(NAME, FakePeers(blobs), blobs, config=config).run()


def test_targets_are_checked_before_anything_is_queued() -> None:
    target = Target(Metric("label_f1_macro"), Arm.ADAPTER, Arm.RAG, 2.0)
    sequential = SequentialConfig(round_size=1, targets=(target,))
    with pytest.raises(InvalidArgumentError) as caught:
        check_config(dataclasses.replace(CONFIG, sequential=sequential, purpose="x" * 201))
    fields = [violation.field.removeprefix("evaluation.config.") for violation in caught.value.violations]
    assert fields == [
        "purpose",
        "sequential.round_size",
        "sequential.targets[0].metric",
        "sequential.targets[0].reference",
        "sequential.targets[0].at_least",
        "sequential.targets",
    ]


def test_a_hopeless_difference_is_given_up_and_never_called_proved() -> None:
    rng = np.random.default_rng(1)
    target = Target(Metric("rouge_l"), Arm.ADAPTER, Arm.BASE)
    outcomes = []
    for _ in range(100):
        given = [dataclasses.replace(row, group=row.id) for row in rows(200)]

        async def ask(arms: object, batch: list[object]) -> dict[tuple[Metric, Arm], list[float]]:
            return {
                (Metric("rouge_l"), Arm.ADAPTER): rng.uniform(0, 1, len(batch)).tolist(),
                (Metric("rouge_l"), Arm.BASE): rng.uniform(0, 1, len(batch)).tolist(),
            }

        asked = asyncio.run(
            run_rounds(rounds_of(given, 20, seed=0), [Arm.BASE, Arm.ADAPTER], [target], ask)  # type: ignore[arg-type]
        )
        outcomes.append(asked.decisions[0].outcome)
    proved = outcomes.count(SequentialOutcome.ABOVE) + outcomes.count(SequentialOutcome.BELOW)
    assert proved <= 4
    assert outcomes.count(SequentialOutcome.FUTILE) >= 50
