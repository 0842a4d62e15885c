"""Holdouts, sequential evaluations and leakage between the contract and the domain."""

from __future__ import annotations

import math

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import holdout_pb2

from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.api.wire_parts import arm_from_proto, arm_to_proto, timestamp
from luthierd.evaluator.decisions.holdout_ledger import Holdout, HoldoutAccess
from luthierd.evaluator.domain.holdout import HoldoutUse, LeakageReport
from luthierd.evaluator.domain.sequential import SequentialConfig, SequentialDecision, SequentialTarget

FIELD = "evaluation.config.sequential"


def sequential_from_proto(message: pb.SequentialConfig) -> SequentialConfig:
    """InvalidArgumentError naming a target's field that is no metric or no arm."""
    targets = tuple(
        SequentialTarget(
            metric=metric_from_name(target.metric, field=f"{FIELD}.targets[{index}].metric"),
            arm=arm_from_proto(target.arm, field=f"{FIELD}.targets[{index}].arm"),
            reference=arm_from_proto(target.reference, field=f"{FIELD}.targets[{index}].reference"),
            at_least=target.at_least,
        )
        for index, target in enumerate(message.targets)
    )
    if message.HasField("round_size"):
        return SequentialConfig(message.round_size, targets)
    return SequentialConfig(targets=targets)


def sequential_to_proto(config: SequentialConfig) -> pb.SequentialConfig:
    """Every field set."""
    return pb.SequentialConfig(
        round_size=config.round_size, targets=[_target_to_proto(target) for target in config.targets]
    )


def decision_of_target_to_proto(found: SequentialDecision) -> pb.SequentialDecision:
    """A decided difference; without an interval its ends are NaN."""
    return pb.SequentialDecision(
        target=_target_to_proto(found.target),
        outcome=pb.SequentialOutcome.Value(f"SEQUENTIAL_OUTCOME_{found.outcome.name}"),
        row_count=found.row_count,
        group_count=found.group_count,
        round_count=found.round_count,
        difference=found.difference,
        interval_low=found.interval.low if found.interval else math.nan,
        interval_high=found.interval.high if found.interval else math.nan,
    )


def _target_to_proto(target: SequentialTarget) -> pb.SequentialTarget:
    return pb.SequentialTarget(
        metric=target.metric,
        arm=arm_to_proto(target.arm),
        reference=arm_to_proto(target.reference),
        at_least=target.at_least,
    )


def use_to_proto(use: HoldoutUse) -> pb.HoldoutUse:
    """How worn a holdout is."""
    return pb.HoldoutUse(
        access_count=use.access_count,
        false_go_bound=use.false_go_bound,
        is_overused=use.is_overused,
        final_row_count=use.final_row_count,
    )


def leakage_to_proto(report: LeakageReport) -> pb.LeakageReport:
    """What was let pass."""
    return pb.LeakageReport(
        findings=[
            pb.LeakageFinding(
                kind=found.kind,
                row_id=found.row_id,
                other_id=found.other_id,
                other_set=found.other_set,
                similarity=found.similarity,
            )
            for found in report.findings
        ],
        counts=report.counts,
    )


def holdout_to_proto(holdout: Holdout) -> holdout_pb2.Holdout:
    """A holdout."""
    return holdout_pb2.Holdout(
        name=holdout.name,
        rows_sha256=holdout.rows_sha256,
        row_count=holdout.row_count,
        group_count=holdout.group_count,
        use=use_to_proto(holdout.use),
        final_read_count=holdout.final_read_count,
    )


def access_to_proto(access: HoldoutAccess) -> holdout_pb2.HoldoutAccess:
    """An entry of the ledger."""
    kinds = (holdout_pb2.HOLDOUT_ACCESS_KIND_EVALUATION, holdout_pb2.HOLDOUT_ACCESS_KIND_GATE)
    return holdout_pb2.HoldoutAccess(
        kind=kinds[access.is_gate],
        final=access.is_final,
        is_counted=not access.is_gate,
        evaluation=access.evaluation,
        adapter_revision=access.adapter_revision,
        gate_policy=access.gate_policy,
        gate_outcome=access.gate_outcome,
        subject=access.subject,
        purpose=access.purpose,
        row_count=access.row_count,
        create_time=timestamp(access.create_time),
    )
