"""The A/A test finds a sound interval sound and an unsound one unsound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from luthierd.evaluator.decisions import gate_selftest
from luthierd.evaluator.decisions.gate import ConditionOutcome
from luthierd.evaluator.decisions.gate_policy import ONE_SIDED_ALPHA
from luthierd.evaluator.decisions.gate_selftest import self_test
from luthierd.evaluator.domain.arm import Arm
from luthierd.statistics.compare import PairedRows


def scored_rows(groups: int, rows_per_group: int = 6) -> list[dict[str, Any]]:
    """Rows of an evaluation in which the adapter is better by .2, and rows of a group resemble each other."""
    rng = np.random.default_rng(1)
    found = []
    for group in range(groups):
        shift = 0.2 * rng.standard_normal()
        for _ in range(rows_per_group):
            gained = 0.2 + shift + 0.05 * rng.standard_normal()
            scores = {Arm.BASE: 0.4, Arm.ADAPTER: float(np.clip(0.4 + gained, 0, 1))}
            answers = [{"arm": arm.value, "scores": {"rouge_l": value}} for arm, value in scores.items()]
            found.append({"row_id": f"r{len(found)}", "group": f"g{group}", "answers": answers})
    return found


def test_identical_arms_pass_a_gate_no_more_often_than_alpha() -> None:
    found = self_test(scored_rows(20), experiments=300, seed=2)
    assert found.outcome is ConditionOutcome.PASS
    (result,) = found.results
    assert result.interval.low <= ONE_SIDED_ALPHA
    assert (result.metric, result.group_count) == ("rouge_l", 20)


def test_a_gate_that_ignored_groups_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(groups: list[str], *how: int) -> PairedRows:
        return PairedRows([str(number) for number in range(len(groups))], *how)

    monkeypatch.setattr(gate_selftest, "PairedRows", by_row)
    assert self_test(scored_rows(20), experiments=300, seed=2).outcome is ConditionOutcome.BREACH


def test_too_few_groups_cannot_be_tested() -> None:
    found = self_test(scored_rows(7), experiments=100)
    assert found.outcome is ConditionOutcome.INSUFFICIENT_EVIDENCE
    assert found.results[0].false_go_rate == 0.0
    assert self_test([], experiments=100).outcome is ConditionOutcome.INSUFFICIENT_EVIDENCE
