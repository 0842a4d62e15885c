"""Whose prefix cache an answer is made from, as the engine itself counts it."""

from __future__ import annotations

import pytest
from luthier import AsyncClient, Endpoints
from support.inference_server import BASE, InferenceServer

pytestmark = pytest.mark.e2e

PROMPT = "a prefix that is long enough for several blocks of the cache, " * 7


async def cached(server: InferenceServer, tenant: str, target: str) -> tuple[int, int]:
    """Tokens of the prompt that came from the cache, and all of them."""
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token(tenant)) as client:
        finish = (await client.inference.generate(target, PROMPT, max_tokens=1, timeout_s=300)).finish
    return finish.cached_prompt_token_count, finish.prompt_token_count


async def test_a_prefix_is_cached_for_its_own_tenant_and_loaded_adapter_and_for_nobody_else(
    server: InferenceServer,
) -> None:
    first, second = (server.add_revision("east", f"cached-{seed}", seed=70 + seed) for seed in (1, 2))
    assert (await cached(server, "east", BASE))[0] == 0
    again, total = await cached(server, "east", BASE)
    assert again > total // 2
    assert (await cached(server, "west", BASE))[0] == 0
    assert (await cached(server, "east", first))[0] == 0
    assert (await cached(server, "east", first))[0] > total // 2
    assert (await cached(server, "east", second))[0] == 0


async def test_one_adapter_of_two_tenants_has_a_cache_for_each(server: InferenceServer) -> None:
    """Equal content is one loaded adapter in the engine; what was computed for one tenant must not tell another."""
    own = server.add_revision("east", "shared-1", seed=90)
    theirs = server.register(
        "tenants/west/adapters/style/revisions/shared-1", server.folder / "made/east-style-shared-1"
    )
    assert (await cached(server, "east", own))[0] == 0
    assert (await cached(server, "east", own))[0] > 0
    assert (await cached(server, "west", theirs))[0] == 0
