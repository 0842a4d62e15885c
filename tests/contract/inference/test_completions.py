"""What an answer carries, and the ways to ask: the contract over a real socket, with a fake engine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthierd.config import ServerConfig
from support.inference_fakes import BASE, revision
from support.inference_parts import Parts, make_parts
from support.serving import bearer, details, error_info, running

SUPPORT = "tenants/acme/deployments/support"
R1 = revision("r1")
TARGET = api.Target(deployment=SUPPORT)
TIMEOUT_S = 10


@contextlib.asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[Parts, InferenceServiceStub]]:
    """The service with one deployment."""
    parts = await make_parts(R1, **options)
    async with running(parts.service, ServerConfig()) as channel:
        await parts.deployments.deploy(SUPPORT, R1.name)
        yield parts, InferenceServiceStub(channel)


async def call(method: Any, request: Any) -> Any:
    """A unary call, as the tenant."""
    return await method(request, metadata=bearer(), timeout=TIMEOUT_S)


async def refused(method: Any, request: Any) -> tuple[grpc.StatusCode, str, str]:
    """Status, reason and first wrong field of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(method, request)
    info = error_info(caught.value)
    return caught.value.code(), info.reason, info.metadata.get("field", "")


def wrong(field: str) -> tuple[grpc.StatusCode, str, str]:
    """The refusal of a field."""
    return grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", field


TURN = api.Message(role="user", content="hi")
UNARY = {
    "Generate": api.GenerateRequest(target=TARGET, prompt="x"),
    "Chat": api.ChatRequest(target=TARGET, messages=[TURN]),
    "BatchGenerate": api.BatchGenerateRequest(target=TARGET, inputs=[{"prompt": "x"}]),
    "Score": api.ScoreRequest(target=TARGET, prompt_text="x", completion_text="y"),
    "Embed": api.EmbedRequest(target=TARGET, texts=["x"]),
}
STREAMS = {
    "GenerateStream": api.GenerateStreamRequest(target=TARGET, prompt="x"),
    "ChatStream": api.ChatStreamRequest(target=TARGET, messages=[TURN]),
}


@pytest.mark.parametrize("method", UNARY)
async def test_every_answer_names_itself_and_who_answered_in_its_trailer_too(method: str) -> None:
    async with served() as (_, stub):
        running_call = getattr(stub, method)(UNARY[method], metadata=bearer(), timeout=TIMEOUT_S)
        response, trailer = await running_call, dict(await running_call.trailing_metadata())
    assert response.response_id.startswith("r-")
    assert trailer["luthier-response-id"] == response.response_id
    assert (trailer["luthier-loaded-adapter"], trailer["luthier-deployment-revision"]) == (R1.loaded_adapter, "1")
    assert response.origin.loaded_adapter == R1.loaded_adapter
    assert trailer["x-request-id"]


@pytest.mark.parametrize("method", STREAMS)
async def test_a_stream_names_itself_first_and_last_and_in_its_trailer(method: str) -> None:
    async with served() as (_, stub):
        stream = getattr(stub, method)(STREAMS[method], metadata=bearer(), timeout=TIMEOUT_S)
        messages = [message async for message in stream]
        trailer = dict(await stream.trailing_metadata())
    ids = [message.response_id for message in messages]
    assert (ids[0], ids[1], ids[-1]) == (trailer["luthier-response-id"], "", trailer["luthier-response-id"])
    assert (trailer["luthier-loaded-adapter"], trailer["luthier-deployment-revision"]) == (R1.loaded_adapter, "1")


async def test_two_answers_have_two_ids() -> None:
    async with served() as (_, stub):
        ids = {(await call(stub.Generate, UNARY["Generate"])).response_id for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize("method", [*UNARY, *STREAMS])
async def test_a_session_id_has_a_bound(method: str) -> None:
    given = type((UNARY | STREAMS)[method])()
    given.CopyFrom((UNARY | STREAMS)[method])
    async with served() as (_, stub):
        given.session_id = "s" * 129
        ask = getattr(stub, method)
        found = await refused(ask if method in UNARY else lambda *a, **o: ask(*a, **o).read(), given)
        given.session_id = "s" * 128
        answer = ask(given, metadata=bearer(), timeout=TIMEOUT_S)
        assert await (answer if method in UNARY else answer.read())
    assert found == wrong("session_id")


async def test_the_tokens_of_an_answer_come_with_their_log_probabilities_and_as_many_alternatives_as_asked_for() -> (
    None
):
    sampling = api.Sampling(top_logprob_count=2)
    async with served() as (_, stub):
        plain = await call(stub.Generate, UNARY["Generate"])
        whole = await call(stub.Generate, api.GenerateRequest(target=TARGET, prompt="x", sampling=sampling))
        stream = stub.GenerateStream(
            api.GenerateStreamRequest(target=TARGET, prompt="x", sampling=sampling), metadata=bearer()
        )
        deltas = [message async for message in stream]
    assert len(plain.logprobs) == 0
    assert [token.text for token in whole.logprobs] == ["I ", "am ", "acme-r1"]
    assert [(one.token_id, one.logprob) for one in whole.logprobs[0].alternatives] == [(0, -1.0), (1, -2.0)]
    assert [token for message in deltas for token in message.logprobs] == list(whole.logprobs)


async def test_several_choices_come_in_one_answer_and_count_together() -> None:
    sampling = api.Sampling(choice_count=3, temperature=1, top_logprob_count=0)
    async with served() as (_, stub):
        answer = await call(stub.Chat, api.ChatRequest(target=TARGET, messages=[TURN], sampling=sampling))
        one = await call(stub.Chat, UNARY["Chat"])
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("I am acme-r1", "stop")] * 3
    assert [len(choice.logprobs) for choice in answer.choices] == [3, 3, 3]
    assert (answer.text, answer.finish.completion_token_count) == ("I am acme-r1", 9)
    assert len(one.choices) == 0


async def test_an_answer_says_what_the_cache_had_and_how_long_it_waited() -> None:
    async with served() as (_, stub):
        finish = (await call(stub.Generate, api.GenerateRequest(target=TARGET, prompt="x" * 16))).finish
    assert (finish.prompt_token_count, finish.cached_prompt_token_count) == (16, 2)
    assert finish.queue_ms >= 500


STREAMED = api.GenerateStreamRequest(target=TARGET, prompt="x", sampling=api.Sampling(choice_count=2, temperature=1))


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"top_logprob_count": 21}, "top_logprob_count"),
        ({"choice_count": 9, "temperature": 1}, "choice_count"),
        ({"choice_count": 0}, "choice_count"),
        ({"choice_count": 2}, "choice_count"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": "3"}, "json_schema"),
        ({"json_schema": "[" * 60_000}, "json_schema"),
        ({"json_schema": '{"x": "' + "y" * 66_000 + '"}'}, "json_schema"),
        ({"regex": ""}, "regex"),
        ({"regex": "("}, "regex"),
        ({"grammar": "("}, "grammar"),
        ({"choices": {}}, "choices"),
        ({"choices": {"texts": ["a", ""]}}, "choices"),
        ({"choices": {"texts": ["a"] * 257}}, "choices"),
    ],
)
async def test_a_sampling_that_cannot_be_is_refused_by_field_before_the_engine_is_asked(
    sampling: dict[str, Any], field: str
) -> None:
    async with served() as (parts, stub):
        request = api.GenerateRequest(target=TARGET, prompt="x", sampling=sampling)
        found = await refused(stub.Generate, request)
        batch = api.BatchGenerateRequest(target=TARGET, inputs=[{"prompt": "x"}], sampling=sampling)
        assert await refused(stub.BatchGenerate, batch) == found
    assert found == wrong(f"sampling.{field}")
    assert parts.engine.requests == []


async def test_streams_and_batches_make_one_choice() -> None:
    several = api.Sampling(choice_count=2, temperature=1)
    async with served() as (_, stub):
        batch = api.BatchGenerateRequest(target=TARGET, inputs=[{"prompt": "x"}], sampling=several)
        found = {
            await refused(stub.BatchGenerate, batch),
            await refused(lambda *a, **o: stub.GenerateStream(*a, **o).read(), STREAMED),
        }
    assert found == {wrong("sampling.choice_count")}


async def test_what_an_answer_must_be_reaches_the_engine() -> None:
    async with served() as (parts, stub):
        for kind, value in (("json_schema", '{"type": "object"}'), ("regex", "a+"), ("choices", {"texts": ["a", "b"]})):
            sampling = api.Sampling(**{kind: value}, top_k=5, stop=["#"], seed=7)
            await call(stub.Generate, api.GenerateRequest(target=TARGET, prompt="x", sampling=sampling))
    given = [request.sampling for request in parts.engine.requests]
    assert [(one.structure.kind, one.structure.text, one.structure.choices) for one in given if one.structure] == [
        ("json_schema", '{"type": "object"}', ()),
        ("regex", "a+", ()),
        ("choices", "", ("a", "b")),
    ]
    assert {(one.top_k, one.stop, one.seed) for one in given} == {(5, ("#",), 7)}


async def test_a_batch_answers_in_order_with_an_error_where_an_input_fails() -> None:
    inputs = [
        {"prompt": "x"},
        {"prompt": "x" * 64},
        {"conversation": {"messages": [TURN]}},
        *({"prompt": f"n{number}"} for number in range(20)),
    ]
    async with served() as (parts, stub):
        batch = await call(stub.BatchGenerate, api.BatchGenerateRequest(target=TARGET, inputs=inputs))
    kinds = [result.WhichOneof("result") for result in batch.results]
    assert kinds == ["answer", "error", *["answer"] * 21]
    assert "PROMPT_TOO_LONG" in str(batch.results[1].error.details[0])
    assert batch.results[2].answer.text == "I am acme-r1"
    assert [result.answer.response_id for result in batch.results][::2] == [
        f"{batch.response_id}.{index}" for index in range(0, 23, 2)
    ]
    assert {tuple(request.prompt_ids) for request in parts.engine.requests} == {
        tuple(text.encode()) for text in ["x", "hi", *(f"n{number}" for number in range(20))]
    }
    assert batch.results[0].answer.finish.completion_token_count == 3


async def test_a_batch_holds_one_lease_and_never_fills_the_engine() -> None:
    async with served(max_in_flight=1) as (parts, stub):
        parts.engine.gate.clear()
        inputs = [{"prompt": "x"}] * 20
        asked = stub.BatchGenerate(api.BatchGenerateRequest(target=TARGET, inputs=inputs), metadata=bearer())
        await parts.engine.began.wait()
        loaded_adapter = parts.loaded_adapters.get(R1)
        assert loaded_adapter is not None
        held, running_count = loaded_adapter.lease_count, len(parts.engine.requests)
        parts.engine.gate.set()
        await asked
    assert (held, loaded_adapter.lease_count) == (1, 0)
    assert running_count <= 8
    assert len(parts.engine.requests) == 20


async def test_a_batch_whose_engine_dies_fails_as_a_whole() -> None:
    async with served() as (parts, stub):
        parts.engine.gate.clear()
        asked = stub.BatchGenerate(UNARY["BatchGenerate"], metadata=bearer(), timeout=TIMEOUT_S)
        await parts.engine.began.wait()
        parts.engine.die()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked
    assert (caught.value.code(), error_info(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "inputs"),
        ([{"prompt": "x"}] * 65, "inputs"),
        ([{"prompt": "x"}, {}], "inputs[1].prompt"),
        ([{"conversation": {"messages": [{"role": "robot"}]}}], "inputs[0].conversation.messages[0].role"),
    ],
)
async def test_a_bad_batch_is_refused_by_field(inputs: list[dict[str, Any]], field: str) -> None:
    async with served() as (_, stub):
        found = await refused(stub.BatchGenerate, api.BatchGenerateRequest(target=TARGET, inputs=inputs))
    assert found == wrong(field)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_text": "hi", "completion_text": "ab"},
        {"prompt_token_ids": {"ids": b"hi"}, "completion_token_ids": {"ids": b"ab"}},
        {"conversation": {"messages": [TURN]}, "completion_text": "ab"},
    ],
    ids=["texts", "tokens", "conversation"],
)
async def test_a_completion_is_scored_token_by_token(fields: dict[str, Any]) -> None:
    async with served() as (_, stub):
        tuned = await call(stub.Score, api.ScoreRequest(target=TARGET, **fields))
        base = await call(stub.Score, api.ScoreRequest(target=api.Target(base_model=BASE.name), **fields))
    assert [(token.token_id, token.text, token.logprob) for token in tuned.tokens] == [
        (ord("a"), "a", -0.5),
        (ord("b"), "b", -0.5),
    ]
    assert (tuned.total_logprob, base.total_logprob, tuned.prompt_token_count) == (-1.0, -2.0, 2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"completion_text": "a"}, "prompt_text"),
        ({"prompt_text": "a"}, "completion_text"),
        ({"prompt_token_ids": {}, "completion_text": "a"}, "prompt_token_ids"),
        ({"prompt_token_ids": {"ids": [256]}, "completion_text": "a"}, "prompt_token_ids"),
        ({"prompt_text": "a", "completion_token_ids": {"ids": [1, 999]}}, "completion_token_ids"),
    ],
)
async def test_a_bad_score_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    async with served() as (_, stub):
        found = await refused(stub.Score, api.ScoreRequest(target=TARGET, **fields))
        long = await refused(stub.Score, api.ScoreRequest(target=TARGET, prompt_text="x" * 60, completion_text="y" * 4))
    assert found == wrong(field)
    assert long[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")


async def test_texts_are_embedded_by_an_engine_that_can_and_refused_by_name_by_one_that_cannot() -> None:
    async with served() as (parts, stub):
        embedded = await call(stub.Embed, api.EmbedRequest(target=TARGET, texts=["x", "yyy"]))
        parts.engine.cannot_embed = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(stub.Embed, UNARY["Embed"])
        none = await refused(stub.Embed, api.EmbedRequest(target=TARGET, texts=["x", ""]))
        many = await refused(stub.Embed, api.EmbedRequest(target=TARGET, texts=["x"] * 65))
    assert [list(one.values) for one in embedded.embeddings] == [[1.0, 1.0], [1.0, 3.0]]
    assert embedded.prompt_token_count == 4
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(caught.value).reason == "ENGINE_CANNOT_EMBED"
    assert len(details(caught.value).details) == 2
    assert {none, many} == {wrong("texts")}
