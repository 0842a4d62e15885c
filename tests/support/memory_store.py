"""The desired state in memory: what `deployments.store.SqlStore` does, without a database."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.inference.domain.deployment import BaseModel, Deployment
from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.domain.quota import Quota


class MemoryStore:
    """See `SqlStore`."""

    def __init__(self) -> None:
        self._rows: dict[str, Deployment] = {}
        self._parity_checks: dict[str, ParityCheck] = {}
        self._chosen: BaseModel | None = None
        self._quotas: dict[str, Quota] = {}

    async def deployments(self) -> list[Deployment]:
        return list(self._rows.values())

    async def create(self, deployment: Deployment) -> None:
        if deployment.name in self._rows:
            raise EtagMismatchError(name=deployment.name)
        self._rows[deployment.name] = deployment

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        self._expect(deployment.name, change)
        self._rows[deployment.name] = deployment

    async def delete(self, name: str, *, change: int) -> None:
        self._expect(name, change)
        del self._rows[name]

    async def parity_checks(self) -> dict[str, ParityCheck]:
        return dict(self._parity_checks)

    async def put_parity_check(self, sha256: str, check: ParityCheck) -> None:
        self._parity_checks[sha256] = check

    async def delete_parity_checks(self, sha256s: Sequence[str]) -> None:
        for sha256 in sha256s:
            del self._parity_checks[sha256]

    async def chosen_base_model(self) -> BaseModel | None:
        return self._chosen

    async def choose_base_model(self, base_model: BaseModel) -> None:
        self._chosen = base_model

    async def quotas(self) -> list[Quota]:
        return list(self._quotas.values())

    async def put_quota(self, quota: Quota, *, change: int) -> None:
        stored = self._quotas.get(quota.name)
        if (stored.change if stored else 0) != change:
            raise EtagMismatchError(name=quota.name)
        self._quotas[quota.name] = quota

    def _expect(self, name: str, change: int) -> None:
        if name not in self._rows or self._rows[name].change != change:
            raise EtagMismatchError(name=name)
