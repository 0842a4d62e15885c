"""Arms and times between the contract and the domain: what every part of the wire needs."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from luthier.evaluator.v1 import evaluation_pb2 as pb

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.domain.arm import Arm

ARMS = {
    Arm.BASE: pb.ARM_BASE,
    Arm.PROMPTED: pb.ARM_PROMPTED,
    Arm.RAG: pb.ARM_RAG,
    Arm.ADAPTER: pb.ARM_ADAPTER,
    Arm.ADAPTER_RAG: pb.ARM_ADAPTER_RAG,
    Arm.ADAPTER_RAFT: pb.ARM_ADAPTER_RAFT,
    Arm.CHALLENGER: pb.ARM_CHALLENGER,
    Arm.ENDPOINT: pb.ARM_ENDPOINT,
}
_ARM_OF = {number: arm for arm, number in ARMS.items()}


def arm_from_proto(number: pb.Arm.ValueType, *, field: str) -> Arm:
    """InvalidArgumentError for a number that is no arm."""
    if number not in _ARM_OF:
        known = ", ".join(Arm)
        raise InvalidArgumentError.of_field(field, f"{number} is not an arm; choose one of {known}")
    return _ARM_OF[number]


def arm_to_proto(arm: Arm | None) -> pb.Arm.ValueType:
    """ARM_UNSPECIFIED for None."""
    return ARMS[arm] if arm is not None else pb.ARM_UNSPECIFIED


def timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """Unix time as the contract has it; None stays None."""
    if seconds is None:
        return None
    found = timestamp_pb2.Timestamp()
    found.FromMicroseconds(round(seconds * 1_000_000))
    return found
