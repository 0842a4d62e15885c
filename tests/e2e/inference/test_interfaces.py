"""Every way to ask, with the real engine: what comes back, and what stops when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import time
import urllib.request
from collections.abc import AsyncIterator

import httpx
import pytest
from luthier import AsyncClient, Endpoints
from luthier import errors as client_errors
from luthier.inference.v1 import inference_service_pb2 as api
from luthierd.inference.engine.slices import PROMPT_TOKENS_PER_SEQUENCE, slice_tokens
from support import tiny_model
from support.inference_server import BASE, InferenceServer
from support.waiting import until
from transformers import AutoTokenizer

pytestmark = pytest.mark.e2e

TARGET, TWIN = "tenants/west/deployments/face", "tenants/west/deployments/twin"
PROMPT = "a question"
SCHEMA = {"enum": [{"kind": "bug", "count": 1}, {"kind": "wish", "count": 2}]}
"""Without room for white space, of which an untrained model makes no end."""
NEVER = "☃ nothing ends here ☃"
LONG = 400
"""Tokens of an answer that nobody waits for."""
STEPS = 100
"""Of the engine, that such an answer may take at most; left alone it would take 400. Most of them pass while the test's
own words travel.
"""
SLICE = 8
"""The bucket of the metric at or above what a step with one running answer may hold of a parity check."""


@pytest.fixture
async def client(server: InferenceServer) -> AsyncIterator[AsyncClient]:
    """A client of a tenant with one deployment."""
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("west")) as made:
        revision = server.add_revision("west", "r1", seed=61, adapter="face")
        await made.deployments.deploy(TARGET, adapter_revision=revision)
        yield made


def completions(server: InferenceServer) -> tuple[str, dict[str, str]]:
    """Where and as whom to ask over HTTP."""
    return f"http://127.0.0.1:{server.http_port}/v1/completions", {"authorization": f"Bearer {server.token('west')}"}


def metric(server: InferenceServer, name: str) -> float:
    """A metric's value now, of deployments where it has a target."""
    return metrics(server, name)[0]


def metrics(server: InferenceServer, *names: str) -> list[float]:
    """Values of one moment."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:  # no TLS: at once
        page = answer.read().decode()
    found = [re.search(rf'^{name}(?:{{target="deployment"}})? (\S+)$', page, flags=re.M) for name in names]
    return [float(one[1]) if one else 0.0 for one in found]


def steps(server: InferenceServer) -> float:
    """Steps that the engine has taken."""
    return metric(server, "luthier_engine_steps_total")


def is_idle(server: InferenceServer) -> bool:
    """The engine computes nothing."""
    return metric(server, "luthier_engine_running") + metric(server, "luthier_engine_waiting") == 0


async def until_busy(server: InferenceServer, *, busy: bool = True) -> None:
    """Waits until the engine computes, or computes nothing."""
    await until(lambda: is_idle(server) is not busy, interval_s=0.002)


async def assert_freed(server: InferenceServer, since: float) -> None:
    """The engine stops soon after `since`, its steps before the call was over."""
    began = time.monotonic()
    await until_busy(server, busy=False)
    taken = steps(server) - since
    print(f"freed after {taken:.0f} steps, {(time.monotonic() - began) * 1000:.0f} ms")
    assert taken < STEPS, "the engine goes on for a call that is over"


async def test_what_an_answer_says_of_its_tokens_is_what_a_score_of_them_says(client: AsyncClient) -> None:
    answer = await client.inference.generate(TARGET, PROMPT, max_tokens=12, top_logprob_count=3)
    chosen = [token.token_id for token in answer.logprobs]
    assert len(chosen) == answer.finish.completion_token_count == 12
    assert [token.alternatives[0].token_id for token in answer.logprobs] == chosen  # greedy
    assert {len(token.alternatives) for token in answer.logprobs} == {3}
    score = await client.inference.score(TARGET, PROMPT, api.TokenIds(ids=chosen))
    base = await client.inference.score(BASE, PROMPT, api.TokenIds(ids=chosen))
    assert [token.logprob for token in score.tokens] == pytest.approx([t.logprob for t in answer.logprobs], abs=1e-3)
    assert [token.token_id for token in score.tokens] == chosen
    assert score.total_logprob > base.total_logprob + 1.0
    assert score.prompt_token_count == answer.finish.prompt_token_count


async def test_a_text_is_scored_as_its_tokens_are(client: AsyncClient) -> None:
    by_text = await client.inference.score(TARGET, PROMPT, "yes")
    by_ids = await client.inference.score(TARGET, PROMPT, api.TokenIds(ids=[t.token_id for t in by_text.tokens]))
    assert "".join(token.text for token in by_text.tokens) == "yes"
    assert by_text.total_logprob == pytest.approx(by_ids.total_logprob, abs=1e-3)


@pytest.mark.parametrize("how", ["json_schema", "regex", "grammar", "choices"])
async def test_an_answer_is_what_it_must_be(client: AsyncClient, how: str) -> None:
    structures = {
        "json_schema": SCHEMA,
        "regex": "[0-9]{3}-(red|green)",
        "grammar": 'root ::= "say " word\nword ::= "yes" | "no"',
        "choices": ["left", "right"],
    }
    options = {how: structures[how]}
    text = (await client.inference.chat(TARGET, PROMPT, max_tokens=80, **options)).text  # type: ignore[arg-type]
    deltas = [
        one.delta
        async for one in client.inference.chat_stream(TARGET, PROMPT, max_tokens=80, **options)  # type: ignore[arg-type]
    ]
    assert "".join(deltas) == text
    if how == "json_schema":
        assert json.loads(text) in SCHEMA["enum"]
    else:
        assert re.fullmatch({"regex": r"\d{3}-(red|green)", "grammar": "say (yes|no)"}.get(how, "left|right"), text)


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("json_schema", {"type": "nonsense"}),
        ("json_schema", {"$ref": "#/$defs/none"}),
        ("regex", "("),
        ("grammar", 'root ::= "a'),
        ("grammar", "nothing"),
    ],
)
async def test_what_no_answer_can_be_is_refused_by_field(client: AsyncClient, how: str, value: object) -> None:
    with pytest.raises(client_errors.InvalidArgumentError) as caught:
        await client.inference.generate(TARGET, PROMPT, **{how: value})  # type: ignore[arg-type]
    assert caught.value.metadata["field"] == f"sampling.{how}"
    assert (await client.inference.generate(TARGET, PROMPT, max_tokens=2)).text


async def test_several_choices_differ_and_the_same_seed_gives_them_again(client: AsyncClient) -> None:
    options = {"max_tokens": 10, "temperature": 1.0, "seed": 4, "choice_count": 3, "top_k": 50}
    first = await client.inference.generate(TARGET, PROMPT, **options)  # type: ignore[arg-type]
    again = await client.inference.generate(TARGET, PROMPT, **options)  # type: ignore[arg-type]
    assert len({choice.text for choice in first.choices}) == 3
    assert [choice.text for choice in first.choices] == [choice.text for choice in again.choices]
    assert first.finish.completion_token_count == sum(choice.completion_token_count for choice in first.choices)


async def test_a_batch_answers_as_each_prompt_does_alone(client: AsyncClient) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(12)]
    alone = [(await client.inference.generate(TARGET, prompt, max_tokens=8)).text for prompt in prompts]
    batch = await client.inference.batch_generate(TARGET, [*prompts, "x" * 600], max_tokens=8)
    assert [result.answer.text for result in batch.results[:-1]] == alone
    assert batch.results[-1].error.message.startswith("the prompt has 600 tokens")


async def test_a_repeated_prompt_comes_from_the_tenants_cache_and_the_wait_is_part_of_the_first_token(
    server: InferenceServer, client: AsyncClient
) -> None:
    prompt = "a long question " * 20
    first = (await client.inference.generate(TARGET, prompt, max_tokens=2)).finish
    second = (await client.inference.generate(TARGET, prompt, max_tokens=2)).finish
    endpoints = Endpoints(inference=f"127.0.0.1:{server.port}")
    async with AsyncClient(endpoints, server.token("east")) as other:
        of_base = (await other.inference.generate(BASE, prompt, max_tokens=2)).finish
    assert (first.cached_prompt_token_count, of_base.cached_prompt_token_count) == (0, 0)
    assert second.cached_prompt_token_count >= 256
    for finish in (first, second):
        assert 0 < finish.queue_ms < finish.ttft_ms <= finish.latency_ms


async def test_an_embedding_is_the_mean_of_the_models_last_states_whatever_else_the_engine_computes(
    server: InferenceServer, client: AsyncClient
) -> None:
    texts = ["a text", "another text that is longer " * 8]
    others = [asyncio.create_task(client.inference.generate(TARGET, "x", max_tokens=40)) for _ in range(4)]
    embedded = (await client.inference.embed(BASE, [*texts, texts[0]])).embeddings
    of_adapter = (await client.inference.embed(TARGET, texts)).embeddings
    await asyncio.gather(*others)
    expected = mean_states(server.folder / "made/base", texts)
    for vector, wanted in zip(embedded, [*expected, expected[0]], strict=True):
        assert list(vector.values) == pytest.approx(wanted, abs=1e-4)
    assert list(of_adapter[0].values) != pytest.approx(expected[0], abs=1e-3)


def mean_states(folder: pathlib.Path, texts: list[str]) -> list[list[float]]:
    """What transformers computes."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
    return [torch.nn.functional.normalize(state, dim=0).tolist() for state in states]


async def test_a_cancelled_stream_frees_its_slot_in_the_engine(server: InferenceServer, client: AsyncClient) -> None:
    stream = client.inference.generate_stream(TARGET, "x", max_tokens=LONG, stop=[NEVER])
    await anext(stream)
    since = steps(server)
    await stream.aclose()  # type: ignore[attr-defined]
    await assert_freed(server, since)


async def with_reference(server: InferenceServer, client: AsyncClient, *, seed: int) -> str:
    """A revision of `face` whose training recorded what the engine says of its twin when nothing is beside it."""
    twin = server.add_revision("west", "twin", seed=seed, adapter="face")
    await client.deployments.deploy(TWIN, adapter_revision=twin)
    prompt, folder = PROMPT * 6, server.folder / "made/recorded"
    score = await client.inference.score(TWIN, prompt, "yes, it is")
    row = {
        "prompt_ids": AutoTokenizer.from_pretrained(server.folder / "made/base").encode(prompt),
        "completion_ids": [token.token_id for token in score.tokens],
        "tuned_logprobs": [token.logprob for token in score.tokens],
    }
    tiny_model.write_adapter(folder, seed=seed)
    (folder / "reference.json").write_text(json.dumps({"dtype": "float32", "rows": [row]}))
    return server.register("tenants/west/adapters/face/revisions/recorded", folder)


async def test_a_proof_adds_no_more_than_a_slice_to_the_steps_of_those_who_decode(
    server: InferenceServer, client: AsyncClient
) -> None:
    async def answer() -> None:  # one at a time, so that only the parity check is computed next to it
        while True:
            await client.inference.generate(BASE, "x", max_tokens=LONG, stop=[NEVER])

    kinds = ("count", "sum", f'bucket{{le="{SLICE:.1f}"}}', 'bucket{le="0.0"}')
    assert slice_tokens(1, other_count=1, other_tokens=1) <= SLICE
    names = [f"luthier_engine_prefill_beside_tokens_{kind}" for kind in kinds]
    revision = await with_reference(server, client, seed=67)
    answering = asyncio.create_task(answer())
    await until_busy(server)
    before = metrics(server, *names)
    deployed = await client.deployments.deploy(TARGET, adapter_revision=revision)
    answering.cancel()
    now = metrics(server, *names)
    steps_taken, tokens, in_slices, without = (new - old for new, old in zip(now, before, strict=True))
    print(f"{tokens:.0f} tokens of parity checks in {steps_taken - without:.0f} of {steps_taken:.0f} steps")
    assert deployed.live.certificate.effect_mean_nats > 0
    assert deployed.live.certificate.token_count == len("yes, it is")
    assert deployed.live.certificate.deviation_max_nats < 1e-4
    assert steps_taken == in_slices
    assert tokens > SLICE


async def test_many_prompts_with_many_choices_reach_the_engine_in_parts(
    server: InferenceServer, client: AsyncClient
) -> None:
    url, headers = completions(server)
    body = {"model": "face", "prompt": [f"{number}" for number in range(64)], "n": 8, "temperature": 1}
    most = 0.0
    async with httpx.AsyncClient(timeout=120) as http:
        answered = asyncio.create_task(http.post(url, json=body | {"ignore_eos": True}, headers=headers))
        while not answered.done():
            most = max(most, metric(server, "luthier_engine_running"))
            await asyncio.sleep(0.002)
    found = (await answered).json()
    assert [choice["index"] for choice in found["choices"]] == list(range(512))
    assert found["usage"]["completion_tokens"] == 512 * 16
    assert 8 <= most <= 32  # `max_num_seqs`; the spare sequences are for others


async def test_a_tenant_s_long_prompts_take_their_share_of_the_steps_in_which_others_decode(
    server: InferenceServer, client: AsyncClient
) -> None:
    endpoints = Endpoints(inference=f"127.0.0.1:{server.port}")
    names = [f"luthier_engine_prefill_beside_tokens_{kind}" for kind in ("sum", "count", 'bucket{le="0.0"}')]

    async def answer() -> None:
        while True:
            await client.inference.generate(BASE, "x", max_tokens=LONG, stop=[NEVER])

    async with AsyncClient(endpoints, server.token("east")) as east:
        answering = asyncio.create_task(answer())
        await until_busy(server)
        before = metrics(server, *names)
        prompts = [f"{number}" * 480 for number in range(10, 30)]
        await asyncio.gather(*(east.inference.generate(BASE, prompt[:480], max_tokens=1) for prompt in prompts))
        answering.cancel()
        tokens, count, without = (new - old for new, old in zip(metrics(server, *names), before, strict=True))
    print(f"{tokens:.0f} tokens of prompts in {count - without:.0f} steps")
    assert tokens > 20 * 400
    assert tokens / (count - without) <= 1.25 * PROMPT_TOKENS_PER_SEQUENCE * 48  # 32 sequences, and 16 spare ones


async def test_a_batch_whose_deadline_passes_frees_all_its_slots(server: InferenceServer, client: AsyncClient) -> None:
    long = client.inference.batch_generate(TARGET, ["x"] * 32, max_tokens=LONG, stop=[NEVER], timeout_s=0.15)
    with pytest.raises(client_errors.DeadlineExceededError):
        await long
    await assert_freed(server, steps(server))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_http_call_that_is_over_frees_its_slot(
    server: InferenceServer, client: AsyncClient, *, stream: bool
) -> None:
    url, headers = completions(server)
    body = {"model": "face", "prompt": "x", "max_tokens": LONG, "temperature": 0, "stream": stream, "stop": [NEVER]}
    async with httpx.AsyncClient() as http:
        asked = asyncio.create_task(http.post(url, json=body, headers=headers, timeout=30))
        await until_busy(server)
        since = steps(server)
        asked.cancel()
        await assert_freed(server, since)
        late = await http.post(url, json=body, headers=headers | {"x-luthier-timeout-s": "0.15"}, timeout=30)
        await assert_freed(server, steps(server))
    assert "DEADLINE_EXCEEDED" in late.text
    assert late.status_code == (200 if stream else 504)


async def test_both_protocols_count_tokens_and_their_answers_share_one_kind_of_id(
    server: InferenceServer, client: AsyncClient
) -> None:
    url, headers = completions(server)
    before = metric(server, "luthier_prompt_tokens_total"), metric(server, "luthier_completion_tokens_total")
    async with httpx.AsyncClient() as http:
        for stream in (False, True):
            body = {"model": "face", "prompt": "four", "max_tokens": 5, "stream": stream, "ignore_eos": True}
            answered = await http.post(url, json=body, headers=headers)
            assert answered.status_code == 200
            assert answered.headers["x-luthier-response-id"] in answered.text
    await client.inference.generate(TARGET, "four", max_tokens=1)
    after = metric(server, "luthier_prompt_tokens_total"), metric(server, "luthier_completion_tokens_total")
    assert (after[0] - before[0], after[1] - before[1]) == (12, 11)
