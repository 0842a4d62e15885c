"""The desired state, parity checks, the choice of the base model, and quotas, in SQL."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import sqlalchemy as sa

from luthierd.codec import from_json, to_json
from luthierd.inference.domain.deployment import BaseModel, Deployment
from luthierd.inference.domain.errors import EtagMismatchError, SharedStateUnreachableError
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.domain.quota import Quota
from luthierd.storage.database import Database

_deployments = sa.table(
    "deployments",
    sa.column("name"),
    sa.column("create_time", sa.Float),
    sa.column("update_time", sa.Float),
    sa.column("revision"),
    sa.column("change"),
    sa.column("live", sa.JSON),
    sa.column("candidate", sa.JSON),
    sa.column("previous", sa.JSON),
    sa.column("is_pinned", sa.Boolean),
    sa.column("shares", sa.JSON),
    sa.column("mirror_sha256"),
)
_parity_checks = sa.table("parity_checks", sa.column("sha256"), sa.column("result", sa.JSON))
_choice = sa.table("engine_choice", sa.column("slot"), sa.column("base_model"), sa.column("base_model_sha256"))
_quotas = sa.table(
    "quotas", sa.column("name"), sa.column("own", sa.JSON), sa.column("update_time", sa.Float), sa.column("change")
)
_ONLY_SLOT = 1  # a server has one engine


class SqlStore:
    """See `DeploymentStore`, `ParityStore`, `ChoiceStore` and `QuotaStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def deployments(self) -> list[Deployment]:
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(_deployments))).mappings().all()
        return [_deployment(row) for row in rows]

    async def create(self, deployment: Deployment) -> None:
        try:
            async with self._database.begin() as connection:
                await connection.execute(sa.insert(_deployments).values(to_json(deployment)))
        except sa.exc.IntegrityError:
            raise EtagMismatchError(name=deployment.name) from None

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        query = sa.update(_deployments).values(to_json(deployment))
        await self._change(query, deployment.name, change)

    async def delete(self, name: str, *, change: int) -> None:
        await self._change(sa.delete(_deployments), name, change)

    async def _change(self, query: sa.Update | sa.Delete, name: str, change: int) -> None:
        """EtagMismatchError unless the stored deployment is at `change`."""
        async with self._database.begin() as connection:
            result = await connection.execute(query.where(_deployments.c.name == name, _deployments.c.change == change))
            if result.rowcount != 1:
                raise EtagMismatchError(name=name)

    async def parity_checks(self) -> dict[str, ParityCheck]:
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(_parity_checks))).all()
        return {row.sha256: from_json(ParityCheck, row.result) for row in rows}

    async def put_parity_check(self, sha256: str, check: ParityCheck) -> None:
        values = {"sha256": sha256, "result": to_json(check)}
        with contextlib.suppress(sa.exc.IntegrityError):  # another replica stored its own at the same time
            async with self._database.begin() as connection:
                await connection.execute(sa.delete(_parity_checks).where(_parity_checks.c.sha256 == sha256))
                await connection.execute(sa.insert(_parity_checks).values(values))

    async def delete_parity_checks(self, sha256s: Sequence[str]) -> None:
        async with self._database.begin() as connection:
            for sha256 in sha256s:
                await connection.execute(sa.delete(_parity_checks).where(_parity_checks.c.sha256 == sha256))

    async def chosen_base_model(self) -> BaseModel | None:
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(_choice.c.base_model, _choice.c.base_model_sha256))).one_or_none()
        return BaseModel(row.base_model, row.base_model_sha256) if row else None

    async def choose_base_model(self, base_model: BaseModel) -> BaseModel:
        chosen = await self.chosen_base_model()
        if chosen is None:
            values = {"slot": _ONLY_SLOT, "base_model": base_model.name, "base_model_sha256": base_model.sha256}
            with contextlib.suppress(sa.exc.IntegrityError):  # another caller chose at the same time
                async with self._database.begin() as connection:
                    await connection.execute(sa.insert(_choice).values(values))
            chosen = await self.chosen_base_model()
        return chosen or base_model

    async def forget_base_model(self, base_model: BaseModel) -> None:
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(_choice).where(_choice.c.base_model_sha256 == base_model.sha256))

    async def quotas(self) -> list[Quota]:
        try:
            async with self._database.read() as connection:
                rows = (await connection.execute(sa.select(_quotas))).mappings().all()
        except (OSError, sa.exc.DBAPIError) as error:
            raise SharedStateUnreachableError(error=type(error).__name__) from error
        return [Quota(**row) for row in rows]

    async def put_quota(self, quota: Quota, *, change: int) -> None:
        values = {**vars(quota), "own": dict(quota.own)}
        query = sa.update(_quotas).where(_quotas.c.name == quota.name, _quotas.c.change == change).values(values)
        try:
            async with self._database.begin() as connection:
                result = await connection.execute(query if change else sa.insert(_quotas).values(values))
                if change and result.rowcount != 1:
                    raise EtagMismatchError(name=quota.name)
        except sa.exc.IntegrityError:
            raise EtagMismatchError(name=quota.name) from None


def _deployment(row: sa.RowMapping) -> Deployment:
    """A NULL is what was not stored before there was its column."""
    return from_json(Deployment, {name: value for name, value in row.items() if value is not None})
