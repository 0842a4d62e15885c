"""Searches for prompts over the real server: created with their inputs fixed, run, read, used."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from luthier.evaluator.v1 import evaluation_pb2
from luthier.evaluator.v1 import prompt_pb2 as pb
from luthier.evaluator.v1 import prompt_service_pb2 as api
from luthierd.codec import from_json, to_json
from luthierd.evaluator.models.generate import Generator
from luthierd.evaluator.run.prompt_run import PromptInputs, PromptRun
from luthierd.evaluator.run.prompt_search import PromptSearch
from luthierd.evaluator.scorers.rouge_l import RougeLScorer
from luthierd.jobs.worker import JobContext, Outcome, run_job
from support.evaluator_material import ManualClock, MemorySampleStore, ScriptedModel, adapter_knows, rows, to_split
from support.evaluator_service import ADAPTER, PARENT, Server, refused
from support.serving import bearer, error_info

DATASET = "tenants/acme/datasets/docs/revisions/r1"
NAME = "tenants/acme/prompts/p1"
CREATE = api.CreatePromptRequest(
    parent=PARENT,
    prompt=pb.Prompt(
        base_model="baseModels/tiny",
        dataset_revision=DATASET,
        search=pb.PromptSearch(candidate_count=4, query_budget=40, instructions=["Be exact."]),
    ),
    prompt_id="p1",
)
CALLS: list[tuple[str, Any]] = [
    ("CreatePrompt", CREATE),
    ("GetPrompt", api.GetPromptRequest(name=NAME)),
    ("ListPrompts", api.ListPromptsRequest(parent=PARENT)),
    ("CancelPrompt", api.CancelPromptRequest(name=NAME)),
    ("WatchPrompt", api.WatchPromptRequest(name=NAME)),
]


def with_validation(server: Server) -> None:
    server.peers.splits["validation"] = server.blobs.put_bytes(to_split(rows(30, split="validation"))).sha256
    server.peers.counts["validation"] = 30


@pytest.mark.parametrize(("name", "message"), CALLS, ids=[name for name, _ in CALLS])
async def test_nobody_but_the_tenant_with_the_scope_learns_anything(server: Server, name: str, message: Any) -> None:
    async def call(**of: Any) -> Any:
        found = getattr(server.prompts, name)(message, **of)
        return await found.read() if name == "WatchPrompt" else await found

    assert (await refused(call())).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await refused(call(metadata=bearer("rival")))).code() is grpc.StatusCode.PERMISSION_DENIED
    without = bearer(scopes=("inference.generate",))
    assert (await refused(call(metadata=without))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_prompt_that_is_not_there_and_a_dataset_without_validation_rows_are_named(server: Server) -> None:
    missing = await refused(server.prompts.GetPrompt(api.GetPromptRequest(name=NAME), metadata=bearer()))
    assert error_info(missing).reason == "PROMPT_NOT_FOUND"
    unseen = await refused(server.prompts.WatchPrompt(api.WatchPromptRequest(name=NAME), metadata=bearer()).read())
    assert error_info(unseen).reason == "PROMPT_NOT_FOUND"
    unusable = await refused(server.prompts.CreatePrompt(CREATE, metadata=bearer()))
    assert error_info(unusable).reason == "PROMPT_DATASET_UNUSABLE"


async def test_a_search_leaves_a_prompt_that_an_evaluation_names_and_an_unfinished_one_is_refused(
    server: Server,
) -> None:
    with_validation(server)
    created = (await server.prompts.CreatePrompt(CREATE, metadata=bearer())).prompt
    assert created.name == NAME
    assert created.state == evaluation_pb2.EVALUATION_STATE_QUEUED
    assert created.search.shot_count == 3
    early = await refused(server.create(prompt=NAME))
    assert error_info(early).reason == "PROMPT_NOT_SUCCEEDED"

    async def search(context: JobContext) -> Outcome:
        inputs = from_json(PromptInputs, context.job.payload["inputs"])
        assert server.peers.splits["holdout"] not in to_json(inputs).values()
        samples = MemorySampleStore()
        generator = Generator(chat_model=ScriptedModel(adapter_knows_all), samples=samples, clock=ManualClock())
        settings = from_json(PromptSearch, context.job.payload["search"])

        def report(done_count: int) -> None:
            context.emit("progress", {"done_count": done_count})

        def tell(text: str) -> None:
            context.emit("message", {"message": text})

        run = PromptRun(
            inputs=inputs,
            search=settings,
            generator=generator,
            samples=samples,
            blobs=server.blobs,
            scorers=lambda: (RougeLScorer(),),
            report=report,
            tell=tell,
            shot_characters=200,
        )
        return Outcome(to_json(await run.run()))

    def adapter_knows_all(arm: Any, messages: Any) -> str:
        return "It returns something of the input."

    await run_job(server.queue, NAME, search)
    found = (await server.prompts.GetPrompt(api.GetPromptRequest(name=NAME), metadata=bearer())).prompt
    assert found.state == evaluation_pb2.EVALUATION_STATE_SUCCEEDED
    assert (found.progress.done_count, found.progress.total_count) == (found.query_count, 40)
    watched = server.prompts.WatchPrompt(api.WatchPromptRequest(name=NAME), metadata=bearer())
    events = [message.event async for message in watched]
    assert [one.event_id for one in events] == list(range(1, len(events) + 1))
    assert [one.state for one in events if one.HasField("state")] == [
        evaluation_pb2.EVALUATION_STATE_QUEUED,
        evaluation_pb2.EVALUATION_STATE_RUNNING,
        evaluation_pb2.EVALUATION_STATE_SUCCEEDED,
    ]
    assert max(one.progress.done_count for one in events) == found.query_count
    assert "candidate 3: rouge_l" in "".join(one.message for one in events)
    after = api.WatchPromptRequest(name=NAME, after_event_id=len(events) - 1)
    assert [one.event async for one in server.prompts.WatchPrompt(after, metadata=bearer())] == events[-1:]
    assert found.score.metric == "rouge_l"
    assert found.instruction == "Be exact."
    assert 0 < found.query_count <= 40
    assert [len(trial.example_row_ids) for trial in found.trials] == [3] * 4
    listed = await server.prompts.ListPrompts(api.ListPromptsRequest(parent=PARENT), metadata=bearer())
    assert list(listed.prompts) == [found]
    evaluation = await server.create(prompt=NAME, arms=[evaluation_pb2.ARM_PROMPTED])
    assert evaluation.config.prompt == NAME
    assert evaluation.adapter_revision == ADAPTER
    await server.work(evaluation.name, chat_model=ScriptedModel(adapter_knows))
    assert (await server.get(evaluation.name)).state == evaluation_pb2.EVALUATION_STATE_SUCCEEDED
