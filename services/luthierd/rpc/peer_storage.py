"""What the other services need, asked before something is deleted. They answer at once and ask nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from luthier.client import AsyncClient
from luthier.services import SERVICES

from luthierd.config import ServerConfig
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.peers import acting_for, translated
from luthierd.storage.references import Reference
from luthierd.storage.sweep import Live

SCOPES = ("storage.admin",)
INSTALLATION = "luthier"
"""The tenant of a service's own calls that are about no tenant."""
REFERENCES_TIMEOUT_S, LIVE_TIMEOUT_S = 10.0, 60.0
DIGEST_BYTES = 32


class PeerStorage:
    """The storage of the services other than `service`. UnavailableError if one does not answer; KeyUnreadableError."""

    def __init__(self, client: AsyncClient, config: ServerConfig, *, service: str) -> None:
        self._client, self._config, self._service = client, config, service

    async def references(self, names: Sequence[str], *, services: Sequence[str]) -> Sequence[Reference]:
        """What refers to `names`, all of one tenant or base models, in `services`."""
        parts = names[0].split("/")
        storage = self._as(parts[1] if parts[0] == "tenants" else INSTALLATION).storage
        calls = [storage.references(one, names, timeout_s=REFERENCES_TIMEOUT_S) for one in services]
        answers = await asyncio.gather(*map(translated, calls))
        return [Reference(one.referrer, one.name, one.needs_it) for found in answers for one in found]

    async def live(self, grace_s: float) -> Sequence[Live]:
        """The live blobs of every other service."""
        storage = self._as(INSTALLATION).storage
        others = [one for one in SERVICES if one != self._service]
        calls = [storage.live_blobs(one, grace_s=grace_s, timeout_s=LIVE_TIMEOUT_S) for one in others]
        answers = await asyncio.gather(*map(translated, calls))
        return [
            Live(
                {one.digests[at : at + DIGEST_BYTES].hex() for at in range(0, len(one.digests), DIGEST_BYTES)},
                one.oldest_job_time.ToNanoseconds() / 1e9 if one.HasField("oldest_job_time") else None,
            )
            for one in answers
        ]

    def _as(self, tenant: str) -> AsyncClient:
        issuer = TokenIssuer.of(self._config)
        return acting_for(tenant, client=self._client, issuer=issuer, service=self._service, scopes=SCOPES)
