"""Dataclasses become messages, and messages dataclasses, by the names of their fields."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import pytest
from google.protobuf import timestamp_pb2
from luthier.curation.v1 import dataset_pb2
from luthier.evaluator.v1 import annotation_queue_pb2, evaluation_pb2, gate_pb2, metrics_pb2
from luthier.trainer.v1 import adapter_pb2, training_job_pb2
from luthierd.errors import InvalidArgumentError
from luthierd.rpc.wire import enum_from_proto, from_proto, to_proto


class Arm(enum.StrEnum):
    BASE = "base"
    ADAPTER = "adapter"


class Tier(enum.Enum):
    CRITICAL = 7
    ADVISORY = 8


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Condition:
    metric: str = "rouge_l"
    arm: Arm = Arm.ADAPTER
    reference: Arm | None = None
    at_least: float = 0.0
    tier: Tier = Tier.CRITICAL
    expected: float | None = None


@dataclass(frozen=True)
class Policy:
    name: str
    conditions: tuple[Condition, ...] = ()
    min_coverage: float = 0.95
    create_time: float | None = None


def test_fields_are_taken_by_name_with_enums_nested_values_and_times() -> None:
    message = to_proto(gate_pb2.GatePolicy, Policy("p", (Condition(tier=Tier.ADVISORY),), create_time=1.5))
    assert message == gate_pb2.GatePolicy(
        name="p",
        conditions=[
            gate_pb2.GateCondition(
                metric="rouge_l",
                arm=evaluation_pb2.ARM_ADAPTER,
                at_least=0.0,
                tier=gate_pb2.GATE_TIER_ADVISORY,
            )
        ],
        min_coverage=0.95,
        create_time=timestamp_pb2.Timestamp(seconds=1, nanos=500_000_000),
    )


def test_a_message_is_read_back_and_what_is_unset_takes_the_default() -> None:
    policy = Policy("p", (Condition("chrf", Arm.BASE, Arm.ADAPTER, 0.1, Tier.ADVISORY, 0.2), Condition()), 0.5, 2.25)
    assert from_proto(Policy, to_proto(gate_pb2.GatePolicy, policy)) == policy
    assert from_proto(Policy, gate_pb2.GatePolicy(name="p", conditions=[gate_pb2.GateCondition()])) == Policy(
        "p", (Condition(),)
    )


def test_zero_that_is_set_differs_from_unset() -> None:
    assert from_proto(Policy, gate_pb2.GatePolicy(name="p", min_coverage=0.0)).min_coverage == 0.0


def test_an_unknown_enum_value_names_its_field_and_the_choices() -> None:
    message = gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(), gate_pb2.GateCondition(arm=77)])
    with pytest.raises(InvalidArgumentError) as caught:
        from_proto(Policy, message, path="gate_policy")
    assert str(caught.value) == "gate_policy.conditions[1].arm: choose one of BASE, ADAPTER"
    with pytest.raises(InvalidArgumentError, match="arm: choose one of BASE, ADAPTER"):
        enum_from_proto(Arm, evaluation_pb2.Arm.DESCRIPTOR, 0, path="arm")


def test_the_ends_of_an_interval_are_fields_and_nan_without_one() -> None:
    @dataclass(frozen=True)
    class Value:
        interval: Interval | None
        coverage: float = 1.0
        scored_mean: float | None = None

    found = to_proto(evaluation_pb2.MetricValue, Value(Interval(0.25, 0.5)), mean=0.375)
    assert (found.interval_low, found.interval_high, found.mean) == (0.25, 0.5, 0.375)
    found = to_proto(evaluation_pb2.MetricValue, Value(None))
    assert math.isnan(found.interval_low)
    assert math.isnan(found.interval_high)
    assert math.isnan(found.scored_mean)


def test_a_span_in_seconds_becomes_a_duration_and_an_unset_optional_stays_unset() -> None:
    @dataclass(frozen=True)
    class Progress:
        step: int = 3
        remaining_s: float = 0.25
        validation_loss: float | None = None

    message = to_proto(training_job_pb2.TrainingProgress, Progress())
    assert message.remaining_duration.ToMilliseconds() == 250
    assert not message.HasField("validation_loss")
    assert from_proto(Progress, message) == Progress()


def test_maps_lists_and_properties_are_taken_and_overrides_win() -> None:
    @dataclass(frozen=True)
    class Report:
        failure_counts: dict[str, int] = field(default_factory=lambda: {"A": 2})
        call_count: int = 4

        @property
        def judge(self) -> str:
            return "j"

    message = to_proto(metrics_pb2.JudgeReport, Report(), call_count=5)
    assert (dict(message.failure_counts), message.judge, message.call_count) == ({"A": 2}, "j", 5)

    @dataclass(frozen=True)
    class Revision:
        target_modules: tuple[str, ...] = ("q_proj", "k_proj")

    assert list(to_proto(adapter_pb2.AdapterRevision, Revision()).target_modules) == ["q_proj", "k_proj"]


def test_none_gives_an_empty_message_with_the_overrides() -> None:
    assert to_proto(dataset_pb2.Dataset, None, name="d") == dataset_pb2.Dataset(name="d")
    assert to_proto(annotation_queue_pb2.AnnotationQueue, None).mode == 0
