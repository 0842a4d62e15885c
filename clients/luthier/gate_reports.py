"""A gate's decision as JUnit XML, for the test tab of a CI system, and as Markdown, for a pull request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from luthier.display import interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.evaluator.v1.gate_pb2 import GateDecision
    from luthier.evaluator.v1.gate_plan_pb2 import GatePlan

SIGNS = {"PASS": "✅", "BREACH": "❌", "INSUFFICIENT_EVIDENCE": "❔"}
OUTCOMES = {"GO": "✅ GO", "NO_GO": "❌ NO-GO", "INCONCLUSIVE": "❔ INCONCLUSIVE"}
# What XML 1.0 cannot hold, escaped or not.
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One condition or limit, as text. `bound` is what was asked for, `found` the estimate with its interval."""

    what: str
    bound: str
    found: str
    adjusted_p_value: str
    coverage: str
    tier: str
    outcome: str
    why: str


def outcome_of(decision: GateDecision | GatePlan) -> str:
    """`GO`, `NO_GO` or `INCONCLUSIVE`."""
    from luthier.evaluator.v1.gate_pb2 import GateOutcome

    return GateOutcome.Name(decision.outcome).removeprefix("GATE_OUTCOME_")


def lines_of(decision: GateDecision) -> Sequence[Line]:
    """Conditions, then limits, in the policy's order."""
    from luthier.evaluator.v1.evaluation_pb2 import Arm
    from luthier.evaluator.v1.gate_pb2 import ConditionOutcome, GateQuantity, GateTier

    def arms(one: Arm.ValueType, other: Arm.ValueType, sign: str) -> str:
        names = [Arm.Name(number).removeprefix("ARM_").lower() for number in (one, other) if number]
        return f" {sign} ".join(names)

    lines = []
    for found in decision.conditions:
        condition = found.condition
        where = f", {condition.slice}" if condition.slice else ""
        lines.append(
            Line(
                what=f"{condition.metric} of {arms(condition.arm, condition.reference, '-')}{where}",
                bound=f"> {condition.at_least:g}",
                found=_estimate(found.estimate, found.interval_low, found.interval_high, "+.3f"),
                adjusted_p_value="" if math.isnan(found.adjusted_p_value) else f"{found.adjusted_p_value:.2g}",
                coverage=f"{found.coverage:.0%}",
                tier=GateTier.Name(condition.tier).removeprefix("GATE_TIER_").lower(),
                outcome=ConditionOutcome.Name(found.outcome).removeprefix("CONDITION_OUTCOME_"),
                why=found.explanation,
            )
        )
    for limited in decision.limits:
        limit = limited.limit
        quantity = GateQuantity.Name(limit.quantity).removeprefix("GATE_QUANTITY_").lower()
        lines.append(
            Line(
                what=f"{quantity} of {arms(limit.arm, limit.reference, '/')}",
                bound=f"≤ {limit.at_most:g}",
                found=_estimate(limited.value, limited.interval_low, limited.interval_high, ".4g"),
                adjusted_p_value="",
                coverage="",
                tier=GateTier.Name(limit.tier).removeprefix("GATE_TIER_").lower(),
                outcome=ConditionOutcome.Name(limited.outcome).removeprefix("CONDITION_OUTCOME_"),
                why=limited.explanation,
            )
        )
    return lines


def _estimate(value: float, low: float, high: float, form: str) -> str:
    return "not known" if math.isnan(value) else interval(value, low, high, form)


def junit(decision: GateDecision) -> str:
    """One test case a condition and limit. What stops a GO is a failure (breach) or an error (a critical one without
    evidence); what is only shown is skipped.
    """
    lines = lines_of(decision)
    suite = ElementTree.Element("testsuite", name="luthier gate", tests=str(len(lines)))
    for line in lines:
        attributes = {"classname": f"luthier.gate.{line.tier}", "name": _clean(f"{line.what} {line.bound}")}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        tag = _tag(line)
        if tag:
            told = ElementTree.SubElement(case, tag, message=_clean(line.why))
            if tag != "skipped":
                told.set("type", line.outcome)
        ElementTree.SubElement(case, "system-out").text = _clean(line.why)
    for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(count, str(sum(_tag(line) == tag for line in lines)))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def markdown(decision: GateDecision) -> str:
    """A heading with the outcome and a table; every cell is text, whatever the names in it are."""
    rows = [
        "| | figure | asked | estimate [interval] | adjusted p | coverage | tier |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines_of(decision):
        cells = (line.what, line.bound, line.found, line.adjusted_p_value, line.coverage, line.tier)
        rows.append(f"| {SIGNS[line.outcome]} | " + " | ".join(map(_cell, cells)) + " |")
    reasons = [f"- {_cell(line.why)}" for line in lines_of(decision) if line.outcome != "PASS"]
    heading = f"## Luthier gate: {OUTCOMES[outcome_of(decision)]}"
    parts = [heading, f"`{_cell(decision.evaluation)}`", "\n".join(rows)] + (["\n".join(reasons)] if reasons else [])
    return "\n\n".join(parts) + "\n"


def _tag(line: Line) -> str:
    """The element below a test case; empty where it passed."""
    if line.outcome == "PASS":
        return ""
    if line.tier == "advisory" or (line.tier == "supporting" and line.outcome != "BREACH"):
        return "skipped"
    return "failure" if line.outcome == "BREACH" else "error"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _cell(text: str) -> str:
    """Text that ends no cell and starts no markup: `_` and a lone bracket start none inside a word or a number."""
    escaped = re.sub(r"([\\`*<>|~])", r"\\\1", " ".join(text.split()))
    return escaped.replace("](", "]\\(")
