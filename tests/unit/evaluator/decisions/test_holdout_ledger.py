"""The final slice and the ledger."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncIterator

import luthierd.evaluator
import pytest
from luthierd.evaluator.decisions.gate import GateDecision, GateOutcome
from luthierd.evaluator.decisions.gate_policy import GatePolicy
from luthierd.evaluator.decisions.holdout_ledger import (
    AccessCounts,
    EvaluationAccesses,
    FinalSliceSpentError,
    HoldoutAccess,
    Holdouts,
    NoFinalSliceError,
    slices_of,
)
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, FinishedEvaluation, Results
from luthierd.evaluator.domain.holdout import HoldoutUse, final_groups
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.evaluator.domain.sequential import SequentialConfig, SequentialTarget
from luthierd.evaluator.run.sequential_rules import holdout_violations
from luthierd.paging import PageRequest
from luthierd.storage.database import Database
from support.evaluator_material import (
    FakePeers,
    MemoryBlobs,
    MemoryLedger,
    ScriptedModel,
    adapter_knows,
    quick_run,
    rows,
)

CONFIG = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), resample_count=200)
NAME = "tenants/acme/evaluations/{}"


def access(
    number: int, *, final: bool = False, adapter: str = "a", gate: str = "", tenant: str = "acme"
) -> HoldoutAccess:
    return HoldoutAccess(
        id=f"access-{number}",
        tenant=tenant,
        rows_sha256="h",
        is_final=final,
        evaluation=f"tenants/{tenant}/evaluations/e{number}",
        adapter_revision="r",
        adapter_sha256=adapter,
        subject="ann",
        row_count=24,
        create_time=float(number),
        gate_outcome=gate,
    )


@pytest.fixture
async def ledger(tmp_path: pathlib.Path) -> AsyncIterator[SqlLedger]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(pathlib.Path(luthierd.evaluator.__file__).parent / "versions")
    yield SqlLedger(database)
    await database.close()


def test_the_final_slice_takes_whole_groups_and_is_the_same_in_every_revision() -> None:
    first, larger = slices_of(rows(300)), slices_of(rows(420))
    assert {row.group for row in first.final}.isdisjoint(row.group for row in first.open)
    assert len(first.open) + len(first.final) == 300
    assert 0.1 <= len(first.final) / 300 <= 0.3
    assert {row.id for row in first.final} <= {row.id for row in larger.final}


def test_a_small_holdout_keeps_nothing_back() -> None:
    assert final_groups({f"g{number}" for number in range(8)}) == set()
    assert slices_of(rows(24)).final == []


def test_ten_accesses_use_a_holdout_up() -> None:
    assert not HoldoutUse(9).is_overused
    assert HoldoutUse(9).warning == ""
    assert HoldoutUse(10).is_overused
    assert "10 times" in HoldoutUse(10).warning
    assert HoldoutUse(1000).false_go_bound == 1.0


async def test_an_access_is_recorded_once_and_gates_are_not_counted(ledger: SqlLedger) -> None:
    await ledger.record(access(1))
    await ledger.record(access(1))
    await ledger.record(access(2, gate="go"))
    await ledger.record(access(3, final=True))
    await ledger.record(access(4, tenant="other"))
    assert await ledger.counts("acme", "h") == AccessCounts(1, 1)
    page = await ledger.list("acme", "h", PageRequest.parse(2, "", "x"))
    assert [found.id for found in page.items] == ["access-3", "access-2"]
    rest = await ledger.list("acme", "h", PageRequest.parse(2, page.next_page_token, "x"))
    assert list(rest.items) == [access(1)]


async def test_the_final_slice_is_read_once_for_an_adapter_s_content(ledger: SqlLedger) -> None:
    await ledger.record(access(1, final=True))
    await ledger.record(access(1, final=True))
    await ledger.record(access(2, final=True, adapter="b"))
    await ledger.record(access(3, final=True, tenant="other"))
    await ledger.record(access(5, final=True, gate="go"))  # a gate judges what its evaluation has read
    with pytest.raises(FinalSliceSpentError) as caught:
        await ledger.record(access(4, final=True))
    assert caught.value.metadata["evaluation"] == "tenants/acme/evaluations/e1"


async def test_an_evaluation_leaves_the_final_slice_alone_and_final_reads_only_that() -> None:
    blobs, ledger = MemoryBlobs(), MemoryLedger()
    peers = FakePeers(blobs, holdout=300)
    seen = {}
    for name, final in (("open", False), ("final", True)):
        chat_model = ScriptedModel(adapter_knows)
        config = dataclasses.replace(CONFIG, final=final, purpose="release 7")
        results = await quick_run(
            NAME.format(name), peers, blobs, config=config, chat_model=chat_model, ledger=ledger
        ).run()
        seen[name] = {messages[-1].content for _, messages in chat_model.calls}
        assert results.holdout_use is not None
        assert results.holdout_use.access_count == 1
        assert results.holdout_use.final_row_count == len(slices_of(rows(300)).final)
    assert seen["open"].isdisjoint(seen["final"])
    assert len(seen["open"]) + len(seen["final"]) == 300
    assert [(found.is_final, found.purpose, found.subject) for found in ledger.kept.values()] == [
        (False, "release 7", "tester"),
        (True, "release 7", "tester"),
    ]


async def test_a_second_final_read_is_refused_before_anything_is_asked_and_a_resumed_one_goes_on() -> None:
    blobs, ledger = MemoryBlobs(), MemoryLedger()
    peers = FakePeers(blobs, holdout=300)
    config = dataclasses.replace(CONFIG, final=True)
    await quick_run(NAME.format("e1"), peers, blobs, config=config, ledger=ledger).run()
    await quick_run(NAME.format("e1"), peers, blobs, config=config, ledger=ledger).run()
    chat_model = ScriptedModel(adapter_knows)
    with pytest.raises(FinalSliceSpentError):
        await quick_run(NAME.format("e2"), peers, blobs, config=config, ledger=ledger, chat_model=chat_model).run()
    assert chat_model.calls == []


async def test_final_on_a_small_holdout_says_how_many_groups_it_takes() -> None:
    blobs = MemoryBlobs()
    with pytest.raises(NoFinalSliceError) as caught:
        await quick_run(
            NAME.format("e1"), FakePeers(blobs), blobs, config=dataclasses.replace(CONFIG, final=True)
        ).run()
    assert caught.value.metadata["group_count"] == "8"


async def test_the_validation_split_is_for_choosing_and_has_no_ledger() -> None:
    blobs, ledger = MemoryBlobs(), MemoryLedger()
    peers = FakePeers(blobs)
    peers.splits["validation"] = peers.splits["holdout"]
    config = dataclasses.replace(CONFIG, split="validation")
    results = await quick_run(NAME.format("e1"), peers, blobs, config=config, ledger=ledger).run()
    assert results.holdout_use is None
    assert ledger.kept == {}


INPUTS = EvaluationInputs(
    **{field.name: "a" for field in dataclasses.fields(EvaluationInputs)[:9]} | {"rows_sha256": "h"}
)
NO_RESULTS = Results(
    overall=MetricResults([], []),
    costs=[],
    row_count=0,
    group_count=0,
    task=TaskSpec(),
    index_sha256="",
    versions={},
    answers_sha256="",
    report_sha256="",
)
NO_DECISION = GateDecision(GateOutcome.INCONCLUSIVE, ())


async def test_a_read_of_the_final_slice_is_counted_with_its_like(ledger: SqlLedger) -> None:
    for number in range(3):
        await ledger.record(access(number))
    accesses, name = EvaluationAccesses(ledger, now=lambda: 9.0), "tenants/acme/evaluations/f"
    final = await accesses.enter(name, INPUTS, EvaluationConfig(final=True), row_count=5, final_row_count=5)
    assert final == HoldoutUse(1, 5)
    again = await accesses.enter(f"{name}2", INPUTS, EvaluationConfig(), row_count=5, final_row_count=5)
    assert again == HoldoutUse(4, 5)


async def test_a_gate_on_the_validation_split_is_not_entered(ledger: SqlLedger) -> None:
    holdouts = Holdouts(ledger, FakePeers(MemoryBlobs()), MemoryBlobs(), now=lambda: 9.0)
    name, policy = "tenants/acme/evaluations/e", GatePolicy(())
    for split, entered in (("validation", 0), ("holdout", 1)):
        found = FinishedEvaluation(name, INPUTS, EvaluationConfig(split=split), NO_RESULTS)
        await holdouts.record_gate(found, policy, NO_DECISION, subject="ann")
        page = await ledger.list("acme", "h", PageRequest.parse(9, "", "x"))
        assert len(page.items) == entered


def test_a_sequential_target_cannot_compare_an_arm_with_itself() -> None:
    target = SequentialTarget(Metric("rouge_l"), Arm.BASE, Arm.BASE)
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), sequential=SequentialConfig(targets=(target,)))
    assert "evaluation.config.sequential.targets[0].reference" in [one.field for one in holdout_violations(config)]
