"""Answers: whose weights, and streams that are never answered twice."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from luthier import errors
from luthier.inference.v1 import inference_service_pb2 as api

DEPLOYMENT = "tenants/acme/deployments/d"


async def test_an_answer_names_its_loaded_adapter_and_unset_sampling_stays_unset(client, installation):
    answer = await client.inference.chat(DEPLOYMENT, "hello", temperature=0.0)
    assert (answer.text, answer.origin.loaded_adapter, answer.origin.deployment_revision) == ("HELLO", "g-1", 3)
    [request] = installation.inference.asked
    assert request.target.deployment == DEPLOYMENT
    assert [(turn.role, turn.content) for turn in request.messages] == [("user", "hello")]
    assert request.sampling.HasField("temperature")
    assert not request.sampling.HasField("max_tokens")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (DEPLOYMENT, "deployment"),
        ("baseModels/m", "base_model"),
        ("tenants/acme/adapters/a/revisions/r1", "adapter_revision"),
    ],
)
async def test_the_kind_of_target_follows_from_its_name(client, installation, name, field):
    await client.inference.chat(name, [{"role": "user", "content": "x"}])
    assert installation.inference.asked[0].target == api.Target(**{field: name})
    assert installation.inference.metadata[0]["x-luthier-target"] == name


async def test_what_cannot_answer_is_refused_before_the_call(client):
    with pytest.raises(errors.InvalidNameError, match="cannot answer"):
        await client.inference.chat("tenants/acme/datasets/d", "x")


async def test_a_stream_is_retried_before_its_first_message_only(client, installation, refuse):
    away = refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    installation.inference.refusals = [away]
    installation.inference.stream = ["a", "b", away]
    seen = []
    stream = client.inference.chat_stream(DEPLOYMENT, "x")
    with pytest.raises(errors.UnavailableError):  # noqa: PT012 - the point is how far it comes
        async for message in stream:
            seen.append(message.delta)
    assert seen == ["a", "b"]
    assert len(installation.inference.asked) == 2


async def test_closing_a_stream_early_cancels_the_call(client, installation):
    installation.inference.stream = ["x" * 10_000] * 100_000
    stream = client.inference.chat_stream(DEPLOYMENT, "x")
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):
        await installation.inference.given_up.wait()


async def test_what_an_answer_must_be_is_sent_as_the_contract_has_it(client, installation):
    await client.inference.chat(DEPLOYMENT, "x", json_schema={"type": "object"}, top_k=5, session_id="s")
    await client.inference.chat(DEPLOYMENT, "x", choices=["a", "b"], choice_count=2, top_logprob_count=0, regex=None)
    first, second = installation.inference.asked
    assert (first.sampling.json_schema, first.sampling.top_k, first.session_id) == ('{"type": "object"}', 5, "s")
    assert (list(second.sampling.choices.texts), second.sampling.choice_count) == (["a", "b"], 2)
    assert second.sampling.HasField("top_logprob_count")


async def test_a_batch_takes_texts_and_conversations(client, installation):
    await client.inference.batch_generate(DEPLOYMENT, ["t", [{"role": "user", "content": "c"}]])
    [request] = installation.inference.asked
    assert [one.WhichOneof("input") for one in request.inputs] == ["prompt", "conversation"]
    assert request.inputs[1].conversation.messages[0].content == "c"


@pytest.mark.parametrize(
    ("prompt", "completion", "kinds"),
    [
        ("p", "c", ("prompt_text", "completion_text")),
        ([{"role": "user", "content": "p"}], api.TokenIds(ids=[1]), ("conversation", "completion_token_ids")),
        (api.TokenIds(ids=[1]), "c", ("prompt_token_ids", "completion_text")),
    ],
)
async def test_a_score_is_of_texts_conversations_or_tokens(client, installation, prompt, completion, kinds):
    await client.inference.score(DEPLOYMENT, prompt, completion)
    [request] = installation.inference.asked
    assert (request.WhichOneof("prompt"), request.WhichOneof("completion")) == kinds
