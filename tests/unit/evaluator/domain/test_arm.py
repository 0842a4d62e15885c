"""The table of arms: what it names exists, and the contract has every arm."""

from __future__ import annotations

import dataclasses

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthierd.evaluator.domain.arm import ADAPTER_FIELDS, DEFAULT_ARMS, PAIRS, Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs

INPUTS = {field.name for field in dataclasses.fields(EvaluationInputs)}
CONFIG = {field.name for field in dataclasses.fields(EvaluationConfig)}


def test_every_arm_is_in_the_contract_and_names_fields_that_exist() -> None:
    known = {value.name.removeprefix("ARM_") for value in pb.Arm.DESCRIPTOR.values}
    assert known == {arm.name for arm in Arm} | {"UNSPECIFIED"}
    for arm in Arm:
        assert {arm.spec.name_of, arm.spec.sha256_of} - {""} <= INPUTS
        assert {arm.spec.needs} - {""} <= CONFIG
    assert set(ADAPTER_FIELDS) == {"raft_adapter_revision", "challenger_revision"}


def test_an_arm_that_needs_something_named_is_not_asked_by_default() -> None:
    assert DEFAULT_ARMS == (Arm.BASE, Arm.PROMPTED, Arm.RAG, Arm.ADAPTER, Arm.ADAPTER_RAG)


def test_differences_start_with_the_adapter_under_test_and_no_pair_is_named_twice() -> None:
    assert PAIRS[:3] == ((Arm.ADAPTER, Arm.BASE), (Arm.ADAPTER, Arm.PROMPTED), (Arm.ADAPTER, Arm.RAG))
    assert len(set(PAIRS)) == len(PAIRS) == 16
    assert all(arm is not reference for arm, reference in PAIRS)
