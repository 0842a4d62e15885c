"""The ledger of holdouts: every access is recorded and counted, and decisions warn once there were too many. The final
slice is read once per adapter.

An access is an evaluation that computed scores. It is recorded before they can be seen, so none is missed, and under
the evaluation's name, so that a resumed run counts once. Gates are recorded but not counted: they judge scores that
the evaluation already showed. A holdout is identified by the digest of its rows, so copies share their accesses.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from luthierd.codec import to_json
from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.dataset.rows import parse_rows
from luthierd.evaluator.decisions.gate import GateDecision
from luthierd.evaluator.decisions.gate_policy import GatePolicy
from luthierd.evaluator.domain.evaluation import (
    DatasetRevision,
    EvaluationConfig,
    EvaluationInputs,
    FinishedEvaluation,
)
from luthierd.evaluator.domain.holdout import MIN_FINAL_GROUPS, HoldoutUse, final_groups
from luthierd.evaluator.domain.rows import Row
from luthierd.names import EVALUATION, HOLDOUT
from luthierd.paging import Page, PageRequest
from luthierd.storage.blobs import BlobStore

SPLIT = "holdout"


class FinalSliceSpentError(FailedPreconditionError):
    """A second read of the final slice for the same adapter."""

    reason = "HOLDOUT_FINAL_SPENT"

    def __init__(self, access: HoldoutAccess) -> None:
        super().__init__(
            f"{access.evaluation} has read the final slice of this holdout for {access.adapter_revision}; "
            "decide by its scores, or curate new rows",
            metadata={"evaluation": access.evaluation, "adapter_revision": access.adapter_revision},
        )


class NoFinalSliceError(FailedPreconditionError):
    """The holdout is too small for a final slice."""

    reason = "HOLDOUT_HAS_NO_FINAL_SLICE"

    def __init__(self, group_count: int) -> None:
        super().__init__(
            f"a final slice needs at least {MIN_FINAL_GROUPS} groups, about a fifth of the holdout's; this holdout has "
            f"{group_count}: evaluate without --final, or curate with a larger share for the holdout",
            metadata={"group_count": str(group_count), "needed_final_group_count": str(MIN_FINAL_GROUPS)},
        )


@dataclass(frozen=True, kw_only=True)
class HoldoutAccess:
    """An entry. `id` is unique: recording it again changes nothing. `create_time` is Unix time."""

    id: str
    tenant: str
    rows_sha256: str
    is_final: bool
    evaluation: str
    adapter_revision: str
    adapter_sha256: str
    subject: str
    row_count: int
    create_time: float
    purpose: str = ""
    gate_policy: str = ""
    gate_outcome: str = ""

    @property
    def is_gate(self) -> bool:
        return bool(self.gate_outcome)

    @property
    def final_key(self) -> str | None:
        """Unique among evaluations of the final slice; None for any other access."""
        if self.is_gate or not self.is_final:
            return None
        return f"{self.tenant}/{self.rows_sha256}/{self.adapter_sha256}"


class AccessCounts(NamedTuple):
    """Evaluations of the open slice, and of the final one."""

    open: int
    final: int


class Ledger(Protocol):
    """Where accesses are kept."""

    async def record(self, access: HoldoutAccess) -> None:
        """FinalSliceSpentError if another evaluation holds its `final_key`."""

    async def counts(self, tenant: str, rows_sha256: str) -> AccessCounts: ...

    async def final_access(self, final_key: str) -> HoldoutAccess | None: ...

    async def list(self, tenant: str, rows_sha256: str, page: PageRequest) -> Page[HoldoutAccess]:
        """Newest first."""


class Revisions(Protocol):
    """Curation, called on behalf of a tenant."""

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision: ...


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """The holdout of a dataset revision."""

    name: str
    rows_sha256: str
    row_count: int
    group_count: int
    use: HoldoutUse
    final_read_count: int


class HoldoutSlices(NamedTuple):
    """The rows that may be evaluated often, and those that are kept back."""

    open: list[Row]
    final: list[Row]


def slices_of(rows: Sequence[Row]) -> HoldoutSlices:
    """The same for the same rows; whole groups stay together."""
    kept_back = final_groups({row.group for row in rows})
    return HoldoutSlices(
        [row for row in rows if row.group not in kept_back], [row for row in rows if row.group in kept_back]
    )


class Holdouts:
    """The use cases of `HoldoutService`, and the records of evaluations and gates."""

    def __init__(
        self, ledger: Ledger, revisions: Revisions, blobs: BlobStore, *, now: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._revisions = revisions
        self._blobs = blobs
        self._now = now

    async def get(self, name: str) -> Holdout:
        """The holdout as it is now. Curation's NotFoundError for an unknown revision."""
        tenant, digest = await self._rows_sha256(name)
        rows = await self._rows(digest) if digest else []
        counts = await self._ledger.counts(tenant, digest)
        use = HoldoutUse(counts.open, len(slices_of(rows).final))
        return Holdout(
            name=name,
            rows_sha256=digest,
            row_count=len(rows),
            group_count=len({row.group for row in rows}),
            use=use,
            final_read_count=counts.final,
        )

    async def accesses(self, name: str, page_size: int, page_token: str) -> Page[HoldoutAccess]:
        """A page of the ledger, newest first."""
        tenant, digest = await self._rows_sha256(name)
        return await self._ledger.list(tenant, digest, PageRequest.parse(page_size, page_token, name))

    async def check_final(self, tenant: str, inputs: EvaluationInputs) -> None:
        """FinalSliceSpentError, NoFinalSliceError: what stops an evaluation of the final slice from starting."""
        rows = await self._rows(inputs.rows_sha256)
        if not slices_of(rows).final:
            raise NoFinalSliceError(len({row.group for row in rows}))
        await refuse_spent(self._ledger, tenant, inputs)

    async def record_gate(
        self, found: FinishedEvaluation, policy: GatePolicy, decision: GateDecision, *, subject: str
    ) -> GateDecision:
        """Records a gate; the decision, with a warning if the holdout is overused by now."""
        if found.config.split != SPLIT:
            return decision
        policy_key = policy.name or hashlib.sha256(json.dumps(to_json(policy), sort_keys=True).encode()).hexdigest()
        access = replace(
            evaluation_access(found.name, found.inputs, found.config, subject=subject, row_count=0, now=self._now()),
            id=f"{found.name}#{policy_key}",
            gate_policy=policy.name,
            gate_outcome=decision.outcome.value,
        )
        await self._ledger.record(access)
        counts = await self._ledger.counts(access.tenant, access.rows_sha256)
        warning = HoldoutUse(counts.final if found.config.final else counts.open).warning
        return replace(decision, warnings=(*decision.warnings, warning)) if warning else decision

    async def _rows_sha256(self, name: str) -> tuple[str, str]:
        """Tenant and digest; an empty digest for a revision without a holdout."""
        tenant, *_ = HOLDOUT.parse(name)
        revision = await self._revisions.dataset_revision(tenant, name.removesuffix("/holdout"))
        return tenant, revision.splits.get(SPLIT, "")

    async def _rows(self, digest: str) -> list[Row]:
        return parse_rows(await asyncio.to_thread(self._blobs.read_bytes, digest), split=SPLIT)


def evaluation_access(
    evaluation: str, inputs: EvaluationInputs, config: EvaluationConfig, *, subject: str, row_count: int, now: float
) -> HoldoutAccess:
    """The entry of an evaluation, under its name."""
    return HoldoutAccess(
        id=evaluation,
        tenant=_tenant_of(evaluation),
        rows_sha256=inputs.rows_sha256,
        is_final=config.final,
        evaluation=evaluation,
        adapter_revision=inputs.adapter_revision,
        adapter_sha256=inputs.adapter_sha256,
        subject=subject,
        row_count=row_count,
        create_time=now,
        purpose=config.purpose,
    )


async def refuse_spent(ledger: Ledger, tenant: str, inputs: EvaluationInputs, *, evaluation: str = "") -> None:
    """FinalSliceSpentError if an evaluation other than `evaluation` has read the final slice for this adapter."""
    access = await ledger.final_access(f"{tenant}/{inputs.rows_sha256}/{inputs.adapter_sha256}")
    if access is not None and access.evaluation != evaluation:
        raise FinalSliceSpentError(access)


def _tenant_of(evaluation: str) -> str:
    tenant, _ = EVALUATION.parse(evaluation)
    return tenant


@dataclass(frozen=True)
class EvaluationAccesses:
    """How a worker records its evaluation for `subject`."""

    ledger: Ledger
    subject: str = ""
    now: Callable[[], float] = time.time

    async def check(self, evaluation: str, inputs: EvaluationInputs, config: EvaluationConfig) -> None:
        """FinalSliceSpentError before anything is generated, if another evaluation was faster."""
        if config.final:
            await refuse_spent(self.ledger, _tenant_of(evaluation), inputs, evaluation=evaluation)

    async def enter(
        self,
        evaluation: str,
        inputs: EvaluationInputs,
        config: EvaluationConfig,
        *,
        row_count: int,
        final_row_count: int,
    ) -> HoldoutUse | None:
        """Records the access before results are computed; how used the holdout is by then. None for other splits."""
        if config.split != SPLIT:
            return None
        access = evaluation_access(
            evaluation, inputs, config, subject=self.subject, row_count=row_count, now=self.now()
        )
        await self.ledger.record(access)
        counts = await self.ledger.counts(access.tenant, access.rows_sha256)
        return HoldoutUse(counts.final if config.final else counts.open, final_row_count)
