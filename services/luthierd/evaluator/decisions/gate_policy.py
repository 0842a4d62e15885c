"""Gate policies: the conditions and limits that a gate checks, and which policies are valid."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import JSON_VALID, Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import Comparison, MetricResult, MetricResults
from luthierd.statistics.clustered import CONFIDENCE

DEFAULT_MIN_COVERAGE = 0.95
ONE_SIDED_ALPHA = (1 - CONFIDENCE) / 2
"""Level of a gate's one-sided tests: one side of the 95 % interval."""

MAX_CONDITIONS = 100
MAX_LIMITS = 100
MAX_CANDIDATES = 1000
MAX_SLICE_LENGTH = 256


class PolicyInvalidError(InvalidArgumentError):
    """A policy that no evaluation can be judged by."""

    reason = "GATE_POLICY_INVALID"


class Tier(enum.StrEnum):
    """A critical condition must be proved, a supporting one must not be disproved, an advisory one is only shown."""

    CRITICAL = "critical"
    SUPPORTING = "supporting"
    ADVISORY = "advisory"


class Quantity(enum.StrEnum):
    """What a limit limits: a field of `ArmCost`, in milliseconds or currency per 1,000 answers."""

    TTFT_MS_P50 = "ttft_ms_p50"
    LATENCY_MS_P50 = "latency_ms_p50"
    LATENCY_MS_P95 = "latency_ms_p95"
    COST_PER_1000 = "cost_per_1000_answers"


@dataclass(frozen=True, kw_only=True)
class GateCondition:
    """`arm` minus `reference` (None: the arm's own mean) must lie above `at_least`: 0 asks for superiority, below 0 is
    a non-inferiority margin. `slice` empty: all rows. `expected` is for planning, None its default.
    """

    metric: Metric
    arm: Arm = Arm.ADAPTER
    reference: Arm | None = None
    at_least: float = 0.0
    tier: Tier = Tier.CRITICAL
    slice: str = ""
    expected: float | None = None

    @property
    def claim(self) -> str:
        """The condition in words."""
        reference = f" minus {self.reference}" if self.reference else ""
        where = f" on {self.slice}" if self.slice else ""
        return f"{self.metric} of {self.arm}{reference}{where} above {self.at_least:g}"

    def result_in(self, results: MetricResults) -> MetricResult | Comparison | None:
        """The result that the condition is about; None where it is missing."""
        if self.reference is None:
            return results.metric(self.arm, self.metric)
        return results.comparison(self.metric, self.arm, self.reference)


@dataclass(frozen=True)
class GateLimit:
    """`quantity` of `arm`, or its ratio to that of `reference`, must not exceed `at_most`."""

    quantity: Quantity
    at_most: float
    arm: Arm = Arm.ADAPTER
    reference: Arm | None = None
    tier: Tier = Tier.CRITICAL

    @property
    def claim(self) -> str:
        """The limit in words."""
        over = f" over {self.reference}" if self.reference else ""
        return f"{self.quantity} of {self.arm}{over} at most {self.at_most:g}"


@dataclass(frozen=True)
class GatePolicy:
    """Conditions, limits, and the coverage below which no result counts as evidence. `name` is empty for a policy given
    with a request. `candidate_count`: how many candidates the arm under test was picked from on these rows.
    """

    conditions: tuple[GateCondition, ...]
    min_coverage: float = DEFAULT_MIN_COVERAGE
    name: str = ""
    limits: tuple[GateLimit, ...] = ()
    candidate_count: int = 1

    @property
    def confidence(self) -> float:
        """The level of the intervals that decide."""
        return 1 - (1 - CONFIDENCE) / self.candidate_count


def default_policy(results: MetricResults, task: TaskSpec) -> GatePolicy:
    """The report's policy: the adapter's primary metric beats base and prompting, its JSON beats base's."""
    wanted = [
        GateCondition(metric=task.primary_metric, reference=Arm.BASE),
        GateCondition(metric=task.primary_metric, reference=Arm.PROMPTED),
        GateCondition(metric=JSON_VALID, reference=Arm.BASE),
    ]
    return GatePolicy(tuple(one for one in wanted if one.result_in(results)))


def check_policy(policy: GatePolicy) -> None:
    """PolicyInvalidError naming every field that is wrong."""
    faults = _policy_faults(policy)
    for index, condition in enumerate(policy.conditions):
        faults += [(f"conditions[{index}].{name}", text) for name, text in _condition_faults(condition)]
    for index, limit in enumerate(policy.limits):
        faults += [(f"limits[{index}].{name}", text) for name, text in _limit_faults(limit)]
    if faults:
        message = "; ".join(f"{field}: {text}" for field, text in faults)
        violations = [FieldViolation(field, text) for field, text in faults]
        raise PolicyInvalidError(f"the gate policy is invalid: {message}", violations=violations)


def _policy_faults(policy: GatePolicy) -> list[tuple[str, str]]:
    faults = []
    if not 1 <= len(policy.conditions) <= MAX_CONDITIONS:
        text = f"a policy needs 1 to {MAX_CONDITIONS} conditions, this one has {len(policy.conditions)}"
        faults.append(("conditions", text))
    if len(policy.limits) > MAX_LIMITS:
        faults.append(("limits", f"a policy has at most {MAX_LIMITS} limits, this one has {len(policy.limits)}"))
    if not 0 <= policy.min_coverage <= 1:
        faults.append(("min_coverage", f"{policy.min_coverage:g} is not in 0 to 1"))
    if not 1 <= policy.candidate_count <= MAX_CANDIDATES:
        faults.append(("candidate_count", f"{policy.candidate_count} is not in 1 to {MAX_CANDIDATES}"))
    return faults


def _condition_faults(condition: GateCondition) -> list[tuple[str, str]]:
    faults = []
    if condition.reference is condition.arm:
        faults.append(("reference", f"{condition.arm} cannot be compared with itself"))
    for name, value in (("at_least", condition.at_least), ("expected", condition.expected)):
        if value is not None and not -1 <= value <= 1:
            faults.append((name, f"{value:g} is not in -1 to 1, the range of every metric's differences"))
    if len(condition.slice) > MAX_SLICE_LENGTH:
        faults.append(("slice", f"{len(condition.slice)} characters are more than {MAX_SLICE_LENGTH}"))
    return faults


def _limit_faults(limit: GateLimit) -> list[tuple[str, str]]:
    faults = []
    if not (math.isfinite(limit.at_most) and limit.at_most > 0):
        faults.append(("at_most", f"{limit.at_most:g} is not above 0"))
    if limit.reference is limit.arm:
        faults.append(("reference", f"{limit.arm} cannot be compared with itself"))
    return faults
