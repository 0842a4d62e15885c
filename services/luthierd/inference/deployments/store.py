"""The desired state and what was proved, in SQL; and the same in memory, for tests."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from luthierd.inference.domain.deployment import AdapterRevision, BaseModel, Deployment, Share
from luthierd.inference.domain.engine import Stage
from luthierd.inference.domain.errors import EtagMismatchError, SharedStateUnreachableError
from luthierd.inference.domain.parity import ParityCertificate, Proof
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
_proofs = sa.table("proofs", sa.column("sha256"), sa.column("proof", sa.JSON))
_choice = sa.table("engine_choice", sa.column("slot"), sa.column("base_model"), sa.column("base_model_sha256"))
_quotas = sa.table(
    "quotas", sa.column("name"), sa.column("own", sa.JSON), sa.column("update_time", sa.Float), sa.column("change")
)
_THE_ONE = 1  # a server has one engine


class SqlStore:
    """See `deployments.DeploymentStore`, `engine_host.ChoiceStore` and `quotas.QuotaStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def deployments(self) -> list[Deployment]:
        """All of them."""
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(_deployments))).mappings().all()
        return [_from_row(dict(row)) for row in rows]

    async def create(self, deployment: Deployment) -> None:
        """EtagMismatchError if there is one of that name."""
        try:
            async with self._database.begin() as connection:
                await connection.execute(sa.insert(_deployments).values(_to_row(deployment)))
        except sa.exc.IntegrityError:
            raise EtagMismatchError(deployment.name) from None

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""
        query = sa.update(_deployments).where(_deployments.c.name == deployment.name, _deployments.c.change == change)
        async with self._database.begin() as connection:
            result = await connection.execute(query.values(_to_row(deployment)))
            if result.rowcount != 1:
                raise EtagMismatchError(deployment.name)

    async def delete(self, name: str, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""
        query = sa.delete(_deployments).where(_deployments.c.name == name, _deployments.c.change == change)
        async with self._database.begin() as connection:
            result = await connection.execute(query)
            if result.rowcount != 1:
                raise EtagMismatchError(name)

    async def proofs(self) -> dict[str, Proof]:
        """What was proved, by the adapters' sha256."""
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(_proofs))).all()
        return {row.sha256: _proof_from_json(row.proof) for row in rows}

    async def put_proof(self, sha256: str, proof: Proof) -> None:
        """Keeps it, in place of an older one."""
        with contextlib.suppress(sa.exc.IntegrityError):  # another replica put its own at the same time
            async with self._database.begin() as connection:
                await connection.execute(sa.delete(_proofs).where(_proofs.c.sha256 == sha256))
                await connection.execute(sa.insert(_proofs).values(sha256=sha256, proof=dataclasses.asdict(proof)))

    async def delete_proofs(self, sha256s: Sequence[str]) -> None:
        """Forgets them."""
        async with self._database.begin() as connection:
            for sha256 in sha256s:
                await connection.execute(sa.delete(_proofs).where(_proofs.c.sha256 == sha256))

    async def chosen_base_model(self) -> BaseModel | None:
        """The choice, if one was made."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(_choice.c.base_model, _choice.c.base_model_sha256))).one_or_none()
        return BaseModel(row.base_model, row.base_model_sha256) if row else None

    async def choose_base_model(self, base_model: BaseModel) -> BaseModel:
        """Makes the choice unless there is one; returns what holds now."""
        chosen = await self.chosen_base_model()
        if chosen is None:
            values = {"slot": _THE_ONE, "base_model": base_model.name, "base_model_sha256": base_model.sha256}
            try:
                async with self._database.begin() as connection:
                    await connection.execute(sa.insert(_choice).values(values))
            except sa.exc.IntegrityError:
                pass  # somebody else chose at the same time
            chosen = await self.chosen_base_model()
        return chosen or base_model

    async def forget_base_model(self, base_model: BaseModel) -> None:
        """Takes the choice back, if it is this one."""
        query = sa.delete(_choice).where(_choice.c.base_model_sha256 == base_model.sha256)
        async with self._database.begin() as connection:
            await connection.execute(query)

    async def quotas(self) -> list[Quota]:
        """All that were set. SharedStateUnreachableError."""
        try:
            async with self._database.read() as connection:
                rows = (await connection.execute(sa.select(_quotas))).mappings().all()
        except (OSError, sa.exc.DBAPIError) as error:
            raise SharedStateUnreachableError(type(error).__name__) from error
        return [Quota(**dict(row)) for row in rows]

    async def put_quota(self, quota: Quota, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`; 0: there is none."""
        values = {"name": quota.name, "own": dict(quota.own), "update_time": quota.update_time, "change": quota.change}
        query = sa.update(_quotas).where(_quotas.c.name == quota.name, _quotas.c.change == change).values(values)
        try:
            async with self._database.begin() as connection:
                result = await connection.execute(query if change else sa.insert(_quotas).values(values))
                if change and result.rowcount != 1:
                    raise EtagMismatchError(quota.name)
        except sa.exc.IntegrityError:
            raise EtagMismatchError(quota.name) from None


class MemoryStore:
    """Forgets everything with the process."""

    def __init__(self) -> None:
        self._rows: dict[str, Deployment] = {}
        self._proofs: dict[str, Proof] = {}
        self._chosen: BaseModel | None = None
        self._quotas: dict[str, Quota] = {}

    async def deployments(self) -> list[Deployment]:
        """All of them."""
        return list(self._rows.values())

    async def create(self, deployment: Deployment) -> None:
        """EtagMismatchError if there is one of that name."""
        if deployment.name in self._rows:
            raise EtagMismatchError(deployment.name)
        self._rows[deployment.name] = deployment

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""
        self._expect(deployment.name, change)
        self._rows[deployment.name] = deployment

    async def delete(self, name: str, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""
        self._expect(name, change)
        del self._rows[name]

    async def proofs(self) -> dict[str, Proof]:
        """What was proved, by the adapters' sha256."""
        return dict(self._proofs)

    async def put_proof(self, sha256: str, proof: Proof) -> None:
        """Keeps it, in place of an older one."""
        self._proofs[sha256] = proof

    async def delete_proofs(self, sha256s: Sequence[str]) -> None:
        """Forgets them."""
        for sha256 in sha256s:
            del self._proofs[sha256]

    async def chosen_base_model(self) -> BaseModel | None:
        """The choice, if one was made."""
        return self._chosen

    async def choose_base_model(self, base_model: BaseModel) -> BaseModel:
        """Makes the choice unless there is one; returns what holds now."""
        self._chosen = self._chosen or base_model
        return self._chosen

    async def forget_base_model(self, base_model: BaseModel) -> None:
        """Takes the choice back, if it is this one."""
        self._chosen = None if self._chosen == base_model else self._chosen

    async def quotas(self) -> list[Quota]:
        """All that were set."""
        return list(self._quotas.values())

    async def put_quota(self, quota: Quota, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`; 0: there is none."""
        stored = self._quotas.get(quota.name)
        if (stored.change if stored else 0) != change:
            raise EtagMismatchError(quota.name)
        self._quotas[quota.name] = quota

    def _expect(self, name: str, change: int) -> None:
        if name not in self._rows or self._rows[name].change != change:
            raise EtagMismatchError(name)


def _to_row(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "create_time": deployment.create_time,
        "update_time": deployment.update_time,
        "revision": deployment.revision,
        "change": deployment.change,
        "live": revision_to_json(deployment.live),
        "candidate": revision_to_json(deployment.candidate),
        "previous": revision_to_json(deployment.previous),
        "is_pinned": deployment.is_pinned,
        "shares": [dataclasses.asdict(share) for share in deployment.shares],
        "mirror_sha256": deployment.mirror_sha256,
    }


def _from_row(row: dict[str, Any]) -> Deployment:
    revisions = {field: revision_from_json(row[field]) for field in ("live", "candidate", "previous")}
    shares = tuple(Share(**share) for share in row["shares"] or ())
    return Deployment(**{**row, **revisions, "shares": shares})


def _proof_from_json(content: Any) -> Proof:
    stages = tuple(Stage(**stage) for stage in content["stages"])
    return Proof(certificate=ParityCertificate(**content["certificate"]), stages=stages)


def revision_to_json(revision: AdapterRevision | None) -> Any:
    """A revision for a column of JSON."""
    if revision is None:
        return None
    base = {"name": revision.base_model.name, "sha256": revision.base_model.sha256}
    return {"name": revision.name, "sha256": revision.sha256, "base_model": base}


def revision_from_json(content: Any) -> AdapterRevision | None:
    """What `revision_to_json` made."""
    if content is None:
        return None
    return AdapterRevision(content["name"], content["sha256"], BaseModel(**content["base_model"]))
