"""The search for a prompt: it finds the better one within its budget, reads no holdout, and does not flatter itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from luthierd.codec import from_json, to_json
from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.rows import Message, Row
from luthierd.evaluator.models.generate import Generator
from luthierd.evaluator.run.prompt_run import PromptInputs, PromptResult, PromptRun, stored_prompt
from luthierd.evaluator.run.prompt_search import Candidate, PromptSearch, candidates, find_prompt
from luthierd.evaluator.run.prompts import check_search
from luthierd.evaluator.scorers.exact_match import ExactMatchScorer
from luthierd.evaluator.scorers.rouge_l import RougeLScorer
from support.evaluator_material import (
    FakePeers,
    ManualClock,
    MemoryBlobs,
    MemorySampleStore,
    ScriptedModel,
    quick_run,
    row,
    rows,
)

TRAIN, VALIDATION = rows(40, split="train"), rows(75, split="validation")
SEARCH = PromptSearch(instructions=("plain", "", "good"), candidate_count=12, query_budget=200, concurrency=4)


def test_candidates_begin_with_the_default_prompt_and_no_two_are_alike() -> None:
    found = candidates(TRAIN, SEARCH)
    assert len(found) == 12
    assert found[0].instruction == "plain"
    keys = {(one.instruction, frozenset(example.id for example in one.examples)) for one in found}
    assert len(keys) == 12
    assert candidates(TRAIN, SEARCH) == found
    alone = dataclasses.replace(SEARCH, shot_count=0)
    assert [one.instruction for one in candidates(TRAIN, alone)] == ["plain", "", "good"]


async def test_the_better_instruction_wins_within_the_budget_and_is_measured_on_rows_of_its_own() -> None:
    asked: list[tuple[int, str]] = []

    async def ask(candidate: Candidate, given: Sequence[Row]) -> Sequence[float]:
        asked.extend((candidate.number, one.id) for one in given)
        return [0.9 if candidate.instruction == "good" else 0.2 for _ in given]

    found = await find_prompt(TRAIN, VALIDATION, SEARCH, ask)
    assert found.best.instruction == "good"
    assert len(asked) <= SEARCH.query_budget
    assert len(set(asked)) == len(asked)
    assert (found.score.value, found.default_score.value) == pytest.approx((0.9, 0.2))
    assert found.score.interval is not None
    closing = {row_id for number, row_id in asked[-found.score.row_count :]}
    searched = {row_id for _, row_id in asked[: -2 * found.score.row_count]}
    groups = {one.id: one.group for one in VALIDATION}
    assert {groups[one] for one in closing}.isdisjoint({groups[one] for one in searched})
    rows_asked = {trial.candidate.number: trial.row_count for trial in found.trials}
    assert rows_asked[found.best.number] == max(rows_asked.values())
    assert min(rows_asked.values()) < max(rows_asked.values())


async def test_when_nothing_helps_the_default_stays() -> None:
    async def ask(candidate: Candidate, given: Sequence[Row]) -> Sequence[float]:
        return [0.5] * len(given)

    found = await find_prompt(TRAIN, VALIDATION, SEARCH, ask)
    assert found.best.number == 0
    assert found.score == found.default_score


class NoHoldout(MemoryBlobs):
    """A blob store that fails the test when the holdout is read."""

    holdout = ""

    def read_bytes(self, sha256: str) -> bytes:
        assert sha256 != self.holdout, "the search read the holdout"
        return super().read_bytes(sha256)


def answers_when_told_well(arm: Arm, messages: Sequence[Message]) -> str:
    """The right answer under the good instruction, prose otherwise."""
    question = messages[-1].content
    assert "holdout_function" not in str(messages)
    told = messages[0].role == "system" and messages[0].content == "good"
    number = int(question.rsplit(" ", 1)[1])
    return row(number, split="validation").reference if told else "It returns something."


def prompt_run(blobs: NoHoldout, samples: MemorySampleStore, chat_model: ScriptedModel) -> PromptRun:
    peers = FakePeers(blobs)
    blobs.holdout = peers.splits["holdout"]
    from support.evaluator_material import to_split

    validation = blobs.put_bytes(to_split(VALIDATION)).sha256
    inputs = PromptInputs(
        target="baseModels/tiny",
        target_sha256="b" * 64,
        dataset_revision="d",
        dataset_sha256="c" * 64,
        train_sha256=peers.splits["train"],
        validation_sha256=validation,
    )
    generator = Generator(chat_model=chat_model, samples=samples, clock=ManualClock(), concurrency=4)
    scorers = (ExactMatchScorer(), RougeLScorer())
    return PromptRun(
        inputs=inputs,
        search=SEARCH,
        generator=generator,
        samples=samples,
        blobs=blobs,
        scorers=lambda: scorers,
        report=lambda _: None,
        tell=lambda _: None,
        shot_characters=200,
    )


async def test_a_whole_search_never_reads_the_holdout_and_leaves_a_prompt_that_an_evaluation_uses() -> None:
    blobs, samples = NoHoldout(), MemorySampleStore()
    result = await prompt_run(blobs, samples, ScriptedModel(answers_when_told_well)).run()
    assert result.instruction == "good"
    assert result.score.value == 1.0 > result.default_score.value
    assert result.query_count == len(samples.kept) <= SEARCH.query_budget
    assert from_json(PromptResult, to_json(result)) == result
    kept = stored_prompt(blobs.kept[result.sha256])
    assert kept.examples == result.examples

    seen: list[Sequence[Message]] = []

    def listen(arm: Arm, messages: Sequence[Message]) -> str:
        seen.append(messages)
        return "x"

    plain = MemoryBlobs()
    plain.kept = blobs.kept
    config = EvaluationConfig(arms=(Arm.PROMPTED,), resample_count=200)
    run = quick_run(
        "tenants/acme/evaluations/e1", FakePeers(plain), plain, config=config, chat_model=ScriptedModel(listen)
    )
    await dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, prompt_sha256=result.sha256)).run()
    assert all(messages[0].content == "good" for messages in seen)
    assert seen[0][2].content == result.examples[0].answer


async def test_a_search_that_is_taken_up_again_asks_nothing_twice_and_finds_the_same() -> None:
    blobs, samples = NoHoldout(), MemorySampleStore()
    first = await prompt_run(blobs, samples, ScriptedModel(answers_when_told_well)).run()
    again = ScriptedModel(answers_when_told_well)
    assert await prompt_run(blobs, samples, again).run() == first
    assert again.calls == []


def test_bounds_are_named() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_search(dataclasses.replace(SEARCH, query_budget=3, instructions=("x" * 5000,)))
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["prompt.search.query_budget", "prompt.search.instructions[0]"]
