"""Holdouts and sequential evaluations between the contract and the domain."""

from __future__ import annotations

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import holdout_pb2

from luthierd.evaluator.api.metric_wire import arm_from_proto, metric_from_name
from luthierd.evaluator.decisions.holdout_ledger import HoldoutAccess
from luthierd.evaluator.domain.sequential import SequentialConfig, SequentialTarget
from luthierd.rpc.wire import from_proto, to_proto

FIELD = "evaluation.config.sequential"


def sequential_from_proto(message: pb.SequentialConfig) -> SequentialConfig:
    """InvalidArgumentError naming the field of a target whose metric or arm is unknown."""
    targets = tuple(_target(one, f"{FIELD}.targets[{index}]") for index, one in enumerate(message.targets))
    return from_proto(SequentialConfig, message, path=FIELD, targets=targets)


def _target(message: pb.SequentialTarget, path: str) -> SequentialTarget:
    return SequentialTarget(
        metric=metric_from_name(message.metric, field=f"{path}.metric"),
        arm=arm_from_proto(message.arm, field=f"{path}.arm"),
        reference=arm_from_proto(message.reference, field=f"{path}.reference"),
        at_least=message.at_least,
    )


def access_to_proto(access: HoldoutAccess) -> holdout_pb2.HoldoutAccess:
    """An entry of the ledger."""
    kinds = (holdout_pb2.HOLDOUT_ACCESS_KIND_EVALUATION, holdout_pb2.HOLDOUT_ACCESS_KIND_GATE)
    return to_proto(
        holdout_pb2.HoldoutAccess,
        access,
        kind=kinds[access.is_gate],
        final=access.is_final,
        is_counted=not access.is_gate,
    )
