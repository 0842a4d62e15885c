"""pytest plugin: a test that fails unless an evaluation passes its gate.

    def test_the_adapter_may_go_live(luthier_gate):
        luthier_gate("tenants/acme/evaluations/nightly", policy="gate.yaml")

pytest imports this module at every start, so the SDK is imported only when the fixture is used.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from luthier.evaluator.v1.gate_pb2 import GateDecision


@pytest.fixture(scope="session")
def luthier_gate() -> Iterator[Callable[..., GateDecision]]:
    """`luthier_gate(evaluation, policy=...)` judges a finished evaluation by a policy (a YAML file, or the name of a
    stored one), fails the test with the reasons unless the outcome is GO, and returns the decision. With
    `inconclusive_ok=True` a test without enough evidence is skipped instead. The installation is the profile's, as for
    the command (`LUTHIER_ENDPOINT`, `LUTHIER_TOKEN`).
    """
    from luthier import config_files, gate_reports
    from luthier.display import enum_name
    from luthier.evaluator.v1.gate_pb2 import GatePolicy
    from luthier.sync import Client

    with Client() as client:

        def judge(evaluation: str, *, policy: str | pathlib.Path, inconclusive_ok: bool = False) -> GateDecision:
            stored = isinstance(policy, str) and policy.startswith("tenants/")
            rule = str(policy) if stored else config_files.load(pathlib.Path(policy), GatePolicy)
            decision = client.gates.run(evaluation, policy=rule)
            outcome = enum_name(decision, "outcome")
            reasons = [f"{line.outcome}: {line.why}" for line in gate_reports.lines_of(decision)]
            text = "\n".join([f"the gate says {outcome} for {evaluation}", *reasons])
            if outcome == "INCONCLUSIVE" and inconclusive_ok:
                pytest.skip(text)
            if outcome != "GO":
                pytest.fail(text, pytrace=False)
            return decision

        yield judge
