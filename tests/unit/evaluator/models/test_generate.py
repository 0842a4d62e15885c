"""Asking: bounded, resumable, patient, and honest about failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from luthierd.errors import InvalidArgumentError, LuthierError, PermissionDeniedError, UnavailableError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.arms import ArmPlan, Query
from luthierd.evaluator.models.generate import Generator, InferenceAwayError, Reply
from support.evaluator_material import ManualClock, MemorySampleStore, ScriptedModel, rows


def queries(count: int) -> list[Query]:
    plan = ArmPlan()
    return [plan.query(arm, row) for arm in (Arm.BASE, Arm.ADAPTER) for row in rows(count)]


async def no_progress(done: int, total: int, arm: Arm | None) -> None:
    """Nobody listens."""


async def test_every_query_is_asked_once_and_at_most_the_bound_at_a_time() -> None:
    chat_model, samples = ScriptedModel(lambda arm, _: str(arm)), MemorySampleStore()
    await Generator(chat_model=chat_model, samples=samples, clock=ManualClock(), concurrency=3).generate_all(
        queries(10), progress=no_progress
    )
    assert len(chat_model.calls) == 20
    assert chat_model.most_running == 3
    assert {answer.text for answer in samples.kept.values()} == {"base", "adapter"}


class MachineDied(Exception):
    """Not an error of ours."""


async def test_what_was_answered_before_a_crash_is_not_asked_again() -> None:
    samples = MemorySampleStore()
    crashed = ScriptedModel(lambda arm, _: "first")

    async def crash_after_seven(done: int, total: int, arm: Arm | None) -> None:
        if done == 7:
            raise MachineDied

    with pytest.raises(MachineDied):
        await Generator(chat_model=crashed, samples=samples, clock=ManualClock(), concurrency=1).generate_all(
            queries(10), progress=crash_after_seven
        )
    resumed = ScriptedModel(lambda arm, _: "second")
    seen: list[tuple[int, int]] = []

    async def remember(done: int, total: int, arm: Arm | None) -> None:
        seen.append((done, total))

    await Generator(chat_model=resumed, samples=samples, clock=ManualClock()).generate_all(
        queries(10), progress=remember
    )
    assert len(resumed.calls) == 13
    assert seen[0] == (7, 20)
    assert seen[-1] == (20, 20)
    assert sum(answer.text == "first" for answer in samples.kept.values()) == 7


async def test_a_refused_query_is_a_failed_row_and_the_others_go_on() -> None:
    def script(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
        return InvalidArgumentError("too long") if "function_4(" in messages[-1].content else "fine"

    samples = MemorySampleStore()
    await Generator(chat_model=ScriptedModel(script), samples=samples, clock=ManualClock()).generate_all(
        queries(6), progress=no_progress
    )
    failed = samples.kept[Arm.BASE, "holdout-4"]
    assert failed.error is not None
    assert failed.error.reason == "INVALID_ARGUMENT"
    assert sum(answer.error is None for answer in samples.kept.values()) == 10


async def test_a_service_that_is_away_for_a_moment_is_waited_for() -> None:
    clock = ManualClock()
    chat_model = ScriptedModel(
        lambda arm, _: UnavailableError("starting", retry_after_s=3.0) if clock.time_s < 1010 else "fine"
    )
    samples = MemorySampleStore()
    await Generator(chat_model=chat_model, samples=samples, clock=clock, concurrency=1).generate_all(
        queries(1), progress=no_progress
    )
    assert clock.slept == [3.0, 3.0, 3.0, 3.0]
    assert all(answer.error is None for answer in samples.kept.values())
    assert samples.kept[Arm.BASE, "holdout-0"].total_s < 3.0  # waiting for the service is not the arm's latency


async def test_a_service_that_stays_away_fails_the_evaluation_and_no_row() -> None:
    chat_model = ScriptedModel(lambda arm, _: UnavailableError("dead", retry_after_s=5.0))
    samples = MemorySampleStore()
    generator = Generator(chat_model=chat_model, samples=samples, clock=ManualClock(), patience_s=30.0)
    with pytest.raises(InferenceAwayError, match="the answers so far are kept"):
        await generator.generate_all(queries(4), progress=no_progress)
    assert samples.kept == {}


async def test_an_error_that_is_not_one_row_s_fails_the_evaluation_and_no_row() -> None:
    chat_model = ScriptedModel(lambda arm, _: PermissionDeniedError("no") if arm is Arm.ADAPTER else "fine")
    samples = MemorySampleStore()
    with pytest.raises(PermissionDeniedError):
        await Generator(chat_model=chat_model, samples=samples, clock=ManualClock()).generate_all(
            queries(4), progress=no_progress
        )
    assert all(answer.error is None for answer in samples.kept.values())


class HeldModel:
    """Answers at once, but for one arm's first query, which waits until `release`."""

    def __init__(self, held: Arm) -> None:
        self.held: Arm | None = held
        self.release = asyncio.Event()
        self.answered: list[Arm] = []

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply:
        if arm is self.held:
            self.held = None
            await self.release.wait()
        self.answered.append(arm)
        return Reply(
            text="fine", ttft_s=0.01, prompt_tokens=50, completion_tokens=1, finish_reason="stop", loaded_adapter="base"
        )


async def test_an_arm_s_last_answers_keep_no_other_arm_waiting() -> None:
    """One window over both arms: all of the adapter's answers come while one of the base's is still out."""
    chat_model = HeldModel(Arm.BASE)

    async def release_after_19(done: int, total: int, arm: Arm | None) -> None:
        if done == total - 1:
            chat_model.release.set()

    generator = Generator(chat_model=chat_model, samples=MemorySampleStore(), clock=ManualClock(), concurrency=2)
    async with asyncio.timeout(5):
        await generator.generate_all(queries(10), progress=release_after_19)
    assert chat_model.answered[-1] is Arm.BASE
    assert chat_model.answered.count(Arm.ADAPTER) == 10


async def test_a_slow_endpoint_takes_no_place_in_our_window() -> None:
    chat_model = HeldModel(Arm.ENDPOINT)
    asked = [Query(arm=Arm.ENDPOINT, row=row, messages=row.prompt) for row in rows(3)] + queries(10)

    async def release_when_ours_are_done(done: int, total: int, arm: Arm | None) -> None:
        if chat_model.answered.count(Arm.BASE) + chat_model.answered.count(Arm.ADAPTER) == 20:
            chat_model.release.set()

    generator = Generator(
        chat_model=chat_model, samples=MemorySampleStore(), clock=ManualClock(), concurrency=1, endpoint_concurrency=1
    )
    async with asyncio.timeout(5):
        await generator.generate_all(asked, progress=release_when_ours_are_done)
    assert chat_model.answered == [Arm.BASE] * 10 + [Arm.ADAPTER] * 10 + [Arm.ENDPOINT] * 3
