"""The desired state, parity checks, the choice of the base model, and quotas, in SQL."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa

from luthierd.codec import from_json, to_json
from luthierd.inference.domain.deployment import BaseModel, Deployment
from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.domain.quota import Quota
from luthierd.storage.database import Database

_TYPES = {"is_pinned": sa.Boolean, **dict.fromkeys(("live", "candidate", "previous", "shares"), sa.JSON)}
_deployments = sa.table(
    "deployments", *(sa.column(one.name, _TYPES.get(one.name)) for one in dataclasses.fields(Deployment))
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
        return [_deployment(row) for row in await self._database.rows(sa.select(_deployments))]

    async def create(self, deployment: Deployment) -> None:
        try:
            await self._database.execute(sa.insert(_deployments).values(to_json(deployment)))
        except sa.exc.IntegrityError:
            raise EtagMismatchError(name=deployment.name) from None

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        await self._change(sa.update(_deployments).values(to_json(deployment)), deployment.name, change)

    async def delete(self, name: str, *, change: int) -> None:
        await self._change(sa.delete(_deployments), name, change)

    async def _change(self, query: sa.Update | sa.Delete, name: str, change: int) -> None:
        """EtagMismatchError unless the stored deployment is at `change`."""
        if not await self._database.execute(query.where(_deployments.c.name == name, _deployments.c.change == change)):
            raise EtagMismatchError(name=name)

    async def parity_checks(self) -> dict[str, ParityCheck]:
        rows = await self._database.rows(sa.select(_parity_checks))
        return {row["sha256"]: from_json(ParityCheck, row["result"]) for row in rows}

    async def put_parity_check(self, sha256: str, check: ParityCheck) -> None:
        with contextlib.suppress(sa.exc.IntegrityError):  # another replica stored its own at the same time
            await self._database.execute(
                sa.delete(_parity_checks).where(_parity_checks.c.sha256 == sha256),
                sa.insert(_parity_checks).values(sha256=sha256, result=to_json(check)),
            )

    async def delete_parity_checks(self, sha256s: Sequence[str]) -> None:
        await self._database.execute(sa.delete(_parity_checks).where(_parity_checks.c.sha256.in_(sha256s)))

    async def chosen_base_model(self) -> BaseModel | None:
        rows = await self._database.rows(sa.select(_choice))
        return BaseModel(rows[0]["base_model"], rows[0]["base_model_sha256"]) if rows else None

    async def choose_base_model(self, base_model: BaseModel) -> None:
        values = {"base_model": base_model.name, "base_model_sha256": base_model.sha256}
        change = sa.update(_choice).values(values)
        if not await self._database.execute(change):
            try:
                await self._database.execute(sa.insert(_choice).values(slot=_ONLY_SLOT, **values))
            except sa.exc.IntegrityError:  # another caller made the first choice at the same time
                await self._database.execute(change)

    async def quotas(self) -> list[Quota]:
        return [Quota(**row) for row in await self._database.rows(sa.select(_quotas))]

    async def put_quota(self, quota: Quota, *, change: int) -> None:
        values = {**vars(quota), "own": dict(quota.own)}
        update = sa.update(_quotas).where(_quotas.c.name == quota.name, _quotas.c.change == change).values(values)
        try:
            is_changed = await self._database.execute(update if change else sa.insert(_quotas).values(values))
        except sa.exc.IntegrityError:
            is_changed = 0
        if not is_changed:
            raise EtagMismatchError(name=quota.name)


def _deployment(row: sa.RowMapping) -> Deployment:
    """A NULL is what was not stored before there was its column."""
    return from_json(Deployment, {name: value for name, value in row.items() if value is not None})
