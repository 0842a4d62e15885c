"""Gate policies: checking, storing, and judging an evaluation by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.errors import AlreadyExistsError, FieldViolation, InvalidArgumentError, NotFoundError
from luthierd.evaluator.evaluations import Evaluations
from luthierd.evaluator.gates import GateDecision, GatePolicy, judge
from luthierd.evaluator.holdouts import Holdouts
from luthierd.names import GATE_POLICY, TENANT, parse_id
from luthierd.rpc.paging import Page, PageRequest

MAX_CONDITIONS = 100


class PolicyNotFoundError(NotFoundError):
    """No such policy."""

    reason = "GATE_POLICY_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no gate policy {name}", metadata={"gate_policy": name})


class PolicyExistsError(AlreadyExistsError):
    """The name is taken; policies do not change."""

    reason = "GATE_POLICY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists and policies do not change; choose another id", metadata={"gate_policy": name})


class PolicyInvalidError(InvalidArgumentError):
    """A policy that cannot be judged by."""

    reason = "GATE_POLICY_INVALID"


@dataclass(frozen=True)
class StoredPolicy:
    """A policy under its name. `create_time` is Unix time."""

    policy: GatePolicy
    create_time: float


class PolicyStore(Protocol):
    """Where policies are kept."""

    async def add(self, stored: StoredPolicy) -> None:
        """PolicyExistsError on a clash."""

    async def get(self, name: str) -> StoredPolicy:
        """PolicyNotFoundError."""

    async def list(self, name_prefix: str, page: PageRequest) -> Page[StoredPolicy]:
        """By name."""


class GatePolicies:
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
        """Judges a SUCCEEDED evaluation for `subject`, and enters that in the ledger of its holdout.
        EvaluationNotFinishedError, PolicyNotFoundError, PolicyInvalidError.
        """
        if isinstance(policy, str):
            GATE_POLICY.parse(policy, field="gate_policy")
            policy = (await self._store.get(policy)).policy
        check_policy(policy)
        found = await self._evaluations.finished(evaluation)
        assert found.results is not None
        decision = judge(policy, found.results.figures)
        return await self._holdouts.judged(found.name, found.inputs, found.config, policy, decision, subject=subject)


def check_policy(policy: GatePolicy) -> None:
    """PolicyInvalidError naming every field that is wrong."""
    violations = []
    if not 1 <= len(policy.conditions) <= MAX_CONDITIONS:
        text = f"a policy needs 1 to {MAX_CONDITIONS} conditions, this one has {len(policy.conditions)}"
        violations.append(FieldViolation("conditions", text))
    if not 0 <= policy.min_coverage <= 1:
        violations.append(FieldViolation("min_coverage", f"{policy.min_coverage:g} is not in 0 to 1"))
    for index, condition in enumerate(policy.conditions):
        if condition.reference is condition.arm:
            text = f"{condition.arm} cannot be compared with itself"
            violations.append(FieldViolation(f"conditions[{index}].reference", text))
        if not -1 <= condition.at_least <= 1:
            text = f"{condition.at_least:g} is not in -1 to 1, the range of every metric's differences"
            violations.append(FieldViolation(f"conditions[{index}].at_least", text))
    if violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise PolicyInvalidError(f"the gate policy is wrong: {message}", violations=violations)
