"""Six deployments, places for two adapters, the real engine: who is asked answers, wherever the weights were."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
from luthier import AsyncClient, Endpoints
from luthier import errors as client_errors
from luthier.inference.v1 import deployment_pb2
from support.inference_server import InferenceServer

pytestmark = pytest.mark.e2e

NAMES = [f"tenants/north/deployments/d{number}" for number in range(6)]
PROMPTS = ["first question", "second question"]
TOKENS = 12


@pytest.fixture
async def client(small_server: InferenceServer) -> AsyncIterator[AsyncClient]:
    """An SDK client of the tenant."""
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{small_server.port}"), small_server.token("north")) as made:
        yield made


async def ask(client: AsyncClient, target: str, prompt: str, session_id: str = "") -> tuple[str, str]:
    """Who answers, and what."""
    answer = await client.inference.chat(
        target, prompt, max_tokens=TOKENS, temperature=0, session_id=session_id, timeout_s=120
    )
    return answer.origin.loaded_adapter, answer.text


async def test_cold_adapters_answer_with_their_own_weights_whatever_made_room_for_them(
    small_server: InferenceServer, client: AsyncClient
) -> None:
    revisions = [small_server.add_revision("north", f"r{number}", seed=number + 1) for number in range(6)]
    expected: dict[tuple[str, str], str] = {}
    for name, revision in zip(NAMES, revisions, strict=True):
        deployed = await client.deployments.deploy(name, adapter_revision=revision, timeout_s=300)
        assert [stage.name for stage in deployed.live.load_stages][-2:] == ["parity_check", "publish"]
        for prompt in PROMPTS:
            loaded_adapter, text = await ask(client, name, prompt)
            assert loaded_adapter == deployed.live.id
            expected[name, prompt] = text
    assert len(set(expected.values())) == len(expected)
    asked = [(name, prompt) for name in NAMES for prompt in PROMPTS] * 4
    random.Random(5).shuffle(asked)
    found = await asyncio.gather(*(ask(client, *one) for one in asked))
    assert [text for _, text in found] == [expected[one] for one in asked]
    assert (await client.engine.get()).loaded_adapter_count <= 2

    await client.deployments.deploy(NAMES[0], adapter_revision=revisions[1], stage_only=True)
    split = {revisions[0]: 1, revisions[1]: 1}
    await client.deployments.set_traffic(NAMES[0], split, mirror_revision=revisions[1])
    sessions = [f"session-{number}" for number in range(12)]
    first = await asyncio.gather(*(ask(client, NAMES[0], PROMPTS[0], session) for session in sessions))
    again = await asyncio.gather(*(ask(client, NAMES[0], PROMPTS[0], session) for session in sessions))
    assert first == again
    assert {text for _, text in first} == {expected[NAMES[0], PROMPTS[0]], expected[NAMES[1], PROMPTS[0]]}

    gone = small_server.folder / "made/north-style-r5/adapter_model.safetensors"
    small_server.blobs.local_path(hashlib.sha256(gone.read_bytes()).hexdigest()).unlink()
    small_server.kill()
    await asyncio.to_thread(small_server.start)
    after = await asyncio.gather(*(ask(client, NAMES[0], PROMPTS[0], session) for session in sessions))
    assert after == first
    with pytest.raises(client_errors.UnavailableError) as caught:
        await client.inference.chat(NAMES[5], PROMPTS[0], max_tokens=TOKENS, timeout_s=5)
    assert caught.value.metadata["cause"] == "BLOB_NOT_FOUND"
    shown = (await client.deployments.get(NAMES[5])).live
    assert shown.state == deployment_pb2.LOADED_ADAPTER_STATE_FAILED
    assert shown.certificate.engine_version
    assert await ask(client, NAMES[4], PROMPTS[1]) == (
        shown_loaded_adapter(small_server, revisions[4]),
        expected[NAMES[4], PROMPTS[1]],
    )


def shown_loaded_adapter(server: InferenceServer, revision: str) -> str:
    """The loaded adapter that a revision's content gives."""
    return f"g-{server.trainer.revisions[revision].sha256[:20]}"
