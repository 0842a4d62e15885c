"""A gate's decision as JUnit XML, for the test tab of a CI system, and as Markdown, for a pull request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from luthier.display import arm_name, enum_name, interval
from luthier.evaluator.v1.gate_pb2 import GateDecision

SIGNS = {"PASS": "✅", "BREACH": "❌", "INSUFFICIENT_EVIDENCE": "❔"}
OUTCOMES = {"GO": "✅ GO", "NO_GO": "❌ NO-GO", "INCONCLUSIVE": "❔ INCONCLUSIVE"}
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow, escaped or not."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One condition or limit, as text. found: the estimate with its interval."""

    what: str
    bound: str
    found: str
    adjusted_p_value: str = ""
    coverage: str = ""
    tier: str
    outcome: str
    why: str


def lines_of(decision: GateDecision) -> list[Line]:
    """Conditions, then limits, in the policy's order."""
    lines = []
    for found in decision.conditions:
        condition = found.condition
        where = f", {condition.slice}" if condition.slice else ""
        lines.append(
            Line(
                what=f"{condition.metric} of {_arms(condition.arm, condition.reference, '-')}{where}",
                bound=f"> {condition.at_least:g}",
                found=_estimate(found.estimate, found.interval_low, found.interval_high, "+.3f"),
                adjusted_p_value="" if math.isnan(found.adjusted_p_value) else f"{found.adjusted_p_value:.2g}",
                coverage=f"{found.coverage:.0%}",
                tier=enum_name(condition, "tier").lower(),
                outcome=enum_name(found, "outcome"),
                why=found.explanation,
            )
        )
    for limited in decision.limits:
        limit = limited.limit
        quantity = enum_name(limit, "quantity").lower()
        lines.append(
            Line(
                what=f"{quantity} of {_arms(limit.arm, limit.reference, '/')}",
                bound=f"≤ {limit.at_most:g}",
                found=_estimate(limited.value, limited.interval_low, limited.interval_high, ".4g"),
                tier=enum_name(limit, "tier").lower(),
                outcome=enum_name(limited, "outcome"),
                why=limited.explanation,
            )
        )
    return lines


def _arms(arm: int, reference: int, sign: str) -> str:
    return f" {sign} ".join(arm_name(one) for one in (arm, reference) if one)


def _estimate(value: float, low: float, high: float, form: str) -> str:
    return "not known" if math.isnan(value) else interval(value, low, high, form)


def junit(decision: GateDecision) -> str:
    """One test case per condition and limit: a breach is a failure, a critical condition without evidence an error, and
    what cannot stop a GO is skipped.
    """
    lines = lines_of(decision)
    suite = ElementTree.Element("testsuite", name="luthier gate", tests=str(len(lines)))
    for line in lines:
        attributes = {"classname": f"luthier.gate.{line.tier}", "name": _clean(f"{line.what} {line.bound}")}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        tag = _tag(line)
        if tag:
            outcome = ElementTree.SubElement(case, tag, message=_clean(line.why))
            if tag != "skipped":
                outcome.set("type", line.outcome)
        ElementTree.SubElement(case, "system-out").text = _clean(line.why)
    for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(count, str(sum(_tag(line) == tag for line in lines)))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def markdown(decision: GateDecision) -> str:
    """A heading with the outcome, and a table in which names cannot become markup."""
    rows = [
        "| | condition | required | estimate [interval] | adjusted p | coverage | tier |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines_of(decision):
        cells = (line.what, line.bound, line.found, line.adjusted_p_value, line.coverage, line.tier)
        rows.append(f"| {SIGNS[line.outcome]} | " + " | ".join(map(_cell, cells)) + " |")
    reasons = [f"- {_cell(line.why)}" for line in lines_of(decision) if line.outcome != "PASS"]
    heading = f"## Luthier gate: {OUTCOMES[enum_name(decision, 'outcome')]}"
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
    """Text that cannot end a cell or start markup: `_` and a lone bracket do not inside a word or a number."""
    escaped = re.sub(r"([\\`*<>|~])", r"\\\1", " ".join(text.split()))
    return escaped.replace("](", "]\\(")
