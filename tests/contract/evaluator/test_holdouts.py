"""The ledger over a real server: accesses are shown, a second final read is refused, an overused holdout is named."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import luthierd.evaluator
import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import gate_pb2, holdout_pb2
from luthier.evaluator.v1 import gate_service_pb2 as gate_api
from luthier.evaluator.v1 import holdout_service_pb2 as api
from luthierd.storage.database import Database
from support.evaluator_material import FakePeers
from support.evaluator_service import Server, refused, served
from support.serving import bearer, error_info

HOLDOUT = f"{FakePeers.adapter.dataset_revision}/holdout"
ARMS = [pb.ARM_BASE, pb.ARM_ADAPTER]
POLICY = gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(metric="rouge_l", reference=pb.ARM_BASE)])


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[Server]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(pathlib.Path(luthierd.evaluator.__file__).parent / "versions")
    async with served(database, tmp_path, holdout=300) as found:
        yield found


async def gate(server: Server, evaluation: str) -> gate_pb2.GateDecision:
    request = gate_api.RunGateRequest(evaluation=evaluation, inline_policy=POLICY)
    return (await server.gates.RunGate(request, metadata=bearer())).decision  # type: ignore[no-any-return]


async def holdout(server: Server) -> holdout_pb2.Holdout:
    request = api.GetHoldoutRequest(name=HOLDOUT)
    return (await server.holdouts.GetHoldout(request, metadata=bearer())).holdout  # type: ignore[no-any-return]


async def test_accesses_are_listed_with_who_and_why_and_gates_cost_nothing(server: Server) -> None:
    evaluation = await server.evaluate(arms=ARMS, purpose="try rank 8")
    decision = await gate(server, evaluation)
    assert decision.outcome == gate_pb2.GATE_OUTCOME_GO
    assert list(decision.warnings) == []
    found = await holdout(server)
    assert (found.row_count, found.group_count, found.use.access_count) == (300, 100, 1)
    assert found.use.false_go_bound == pytest.approx(0.05)
    request = api.ListHoldoutAccessesRequest(parent=HOLDOUT)
    accesses = (await server.holdouts.ListHoldoutAccesses(request, metadata=bearer())).accesses
    assert [(access.gate_outcome, access.is_counted, access.purpose) for access in accesses] == [
        ("go", False, "try rank 8"),
        ("", True, "try rank 8"),
    ]
    assert {access.evaluation for access in accesses} == {evaluation}
    assert {access.subject for access in accesses} != {""}


async def test_the_final_slice_is_read_once_and_the_refusal_names_who_read_it(server: Server) -> None:
    first = await server.evaluate(arms=ARMS, final=True)
    found = await server.get(first)
    assert found.arms[0].row_count == found.holdout_use.final_row_count > 0
    error = await refused(server.create(arms=ARMS, final=True))
    assert error_info(error).reason == "HOLDOUT_FINAL_SPENT"
    assert error_info(error).metadata["evaluation"] == first
    assert (await holdout(server)).final_read_count == 1


async def test_an_over_used_holdout_is_named_in_results_and_gate(server: Server) -> None:
    for _ in range(9):
        await server.evaluate(arms=ARMS, row_limit=10)
    last = await server.evaluate(arms=ARMS, row_limit=10)
    assert (await server.get(last)).holdout_use.is_overused
    (warning,) = (await gate(server, last)).warnings
    assert "10 times" in warning
    assert (await holdout(server)).use.is_overused


async def test_another_tenant_s_holdout_is_denied_before_it_is_looked_for(server: Server) -> None:
    request = api.GetHoldoutRequest(name="tenants/other/datasets/docs/revisions/r1/holdout")
    error = await refused(server.holdouts.GetHoldout(request, metadata=bearer()))
    assert error.code().name == "PERMISSION_DENIED"


async def test_a_sequential_evaluation_says_when_each_difference_was_decided(server: Server) -> None:
    name = await server.evaluate(arms=ARMS, sequential=pb.SequentialConfig(round_size=20))
    found = await server.get(name)
    (decision,) = found.sequential_decisions
    assert decision.outcome == pb.SEQUENTIAL_OUTCOME_ABOVE
    assert found.arms[0].row_count == decision.row_count < 100
    assert (await gate(server, name)).outcome == gate_pb2.GATE_OUTCOME_GO
