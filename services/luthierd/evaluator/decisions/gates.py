"""Gates as a resource: storing policies, judging evaluations by them, planning and testing them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from luthierd.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from luthierd.evaluator.dataset.rows import select_rows
from luthierd.evaluator.decisions.gate import GateDecision, judge
from luthierd.evaluator.decisions.gate_plan import GatePlan, Pilot, plan_gate
from luthierd.evaluator.decisions.gate_policy import GatePolicy, check_policy
from luthierd.evaluator.decisions.gate_selftest import EXPERIMENTS, SelfTest, self_test
from luthierd.evaluator.decisions.holdout_ledger import Holdouts
from luthierd.evaluator.domain.evaluation import FinishedEvaluation
from luthierd.evaluator.domain.rows import Row
from luthierd.names import GATE_POLICY, TENANT, parse_id
from luthierd.paging import Page, PageRequest

MAX_ROW_LIMIT = 1_000_000


class PolicyNotFoundError(NotFoundError):
    """No such policy."""

    reason = "GATE_POLICY_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no gate policy {name}", metadata={"gate_policy": name})


class PolicyExistsError(AlreadyExistsError):
    """The name is taken; policies are immutable."""

    reason = "GATE_POLICY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists and policies do not change; choose another id", metadata={"gate_policy": name})


@dataclass(frozen=True)
class StoredPolicy:
    """A policy under its name. `create_time` is Unix time."""

    policy: GatePolicy
    create_time: float


class Evaluations(Protocol):
    """Finished evaluations, and the rows that could be evaluated on."""

    async def finished(self, name: str) -> FinishedEvaluation:
        """EvaluationNotFoundError, EvaluationNotFinishedError."""

    async def scored_rows(self, name: str) -> Sequence[dict[str, Any]]:
        """All rows of a finished evaluation with answers and scores (`rows.write_rows`)."""

    async def split_rows(self, dataset_revision: str, split: str) -> Sequence[Row]:
        """DatasetNotReadyError, SplitEmptyError."""


class PolicyStore(Protocol):
    """Where policies are kept."""

    async def add(self, stored: StoredPolicy) -> None:
        """PolicyExistsError on a clash."""

    async def get(self, name: str) -> StoredPolicy:
        """PolicyNotFoundError."""

    async def list(self, name_prefix: str, page: PageRequest) -> Page[StoredPolicy]:
        """By name."""


class Gates:
    """The use cases of `GateService`."""

    def __init__(
        self,
        store: PolicyStore,
        evaluations: Evaluations,
        holdouts: Holdouts,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._evaluations = evaluations
        self._holdouts = holdouts
        self._now = now

    async def create(self, parent: str, policy_id: str, policy: GatePolicy) -> StoredPolicy:
        """Stores a policy. PolicyInvalidError, PolicyExistsError."""
        (tenant,) = TENANT.parse(parent, field="parent")
        name = GATE_POLICY.format(tenant, parse_id(policy_id, field="gate_policy_id"))
        check_policy(policy)
        stored = StoredPolicy(replace(policy, name=name), self._now())
        await self._store.add(stored)
        return stored

    async def get(self, name: str) -> StoredPolicy:
        """PolicyNotFoundError."""
        GATE_POLICY.parse(name)
        return await self._store.get(name)

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[StoredPolicy]:
        """A page of a tenant's policies, by name."""
        TENANT.parse(parent, field="parent")
        return await self._store.list(f"{parent}/gatePolicies/", PageRequest.parse(page_size, page_token, parent))

    async def run(self, evaluation: str, policy: str | GatePolicy, *, subject: str = "") -> GateDecision:
        """Judges a SUCCEEDED evaluation for `subject`, and records that in the ledger of its holdout.
        EvaluationNotFinishedError, PolicyNotFoundError, PolicyInvalidError.
        """
        policy = await self._resolved(policy)
        found = await self._evaluations.finished(evaluation)
        results = found.results
        decision = judge(policy, results.overall, slices=results.slices, costs=results.costs)
        return await self._holdouts.record_gate(found, policy, decision, subject=subject)

    async def plan(
        self, dataset_revision: str, policy: str | GatePolicy, *, split: str, row_limit: int, pilot: str
    ) -> GatePlan:
        """What a policy can prove on a revision's rows. `pilot`: an evaluation to take variances from, or empty."""
        policy = await self._resolved(policy)
        if not 0 <= row_limit <= MAX_ROW_LIMIT:
            raise InvalidArgumentError.of_field("row_limit", f"{row_limit} is not in 0 to {MAX_ROW_LIMIT}")
        rows = await self._evaluations.split_rows(dataset_revision, split or "holdout")
        chosen = select_rows(rows, row_limit, seed=0)
        found = Pilot(pilot, (await self._evaluations.finished(pilot)).results) if pilot else None
        return plan_gate(policy, chosen, pilot=found)

    async def self_test(self, evaluation: str, *, experiments: int, seed: int) -> SelfTest:
        """How often a gate would tell identical arms apart on the rows of a SUCCEEDED evaluation."""
        low, high = EXPERIMENTS
        if not low <= experiments <= high:
            raise InvalidArgumentError.of_field("experiment_count", f"{experiments} is not in {low} to {high}")
        rows = await self._evaluations.scored_rows(evaluation)
        return await asyncio.to_thread(self_test, rows, experiments=experiments, seed=seed)

    async def _resolved(self, policy: str | GatePolicy) -> GatePolicy:
        if isinstance(policy, str):
            GATE_POLICY.parse(policy, field="gate_policy")
            policy = (await self._store.get(policy)).policy
        check_policy(policy)
        return policy
