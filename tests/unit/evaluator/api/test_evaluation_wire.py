"""The wire: round trips and translations."""

from __future__ import annotations

import dataclasses
import math

import luthier.errors as sdk
import pytest
from luthier.curation.v1 import dataset_pb2
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import gate_pb2
from luthier.trainer.v1 import adapter_pb2
from luthierd import errors
from luthierd.codec import from_json, to_json
from luthierd.evaluator.api import config_wire, gate_wire, metric_wire, peers
from luthierd.evaluator.api import evaluation_wire as wire
from luthierd.evaluator.decisions.gate_policy import GateCondition, GateLimit, GatePolicy, Quantity, Tier
from luthierd.evaluator.decisions.gates import StoredPolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import Criterion, JudgeChoice, TaskKind
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import MetricResult
from luthierd.jobs.queue import JobEvent
from luthierd.rpc.peers import error_of
from luthierd.statistics.estimates import Interval

CONFIG = EvaluationConfig(
    arms=(Arm.ADAPTER, Arm.BASE),
    split="validation",
    row_limit=7,
    text_field="a",
    label_field="b",
    instruction="c",
    shot_count=0,
    max_answer_tokens=5,
    concurrency=2,
    seed=0,
    machine_price_per_hour=0.0,
    resample_count=100,
    metrics=(Metric("rubric"), Metric("bleu")),
    judge=JudgeChoice(endpoint="house", model="m", max_tokens=64),
    task=TaskKind.EXTRACTION,
    json_schema="{}",
    rubric=(Criterion("tone", "Is it warm?", 3),),
    repeat_count=2,
    repeat_temperature=0.1,
)


def test_a_configuration_survives_the_wire_zeros_included() -> None:
    assert config_wire.config_from_proto(config_wire.config_to_proto(CONFIG)) == CONFIG


def test_an_empty_configuration_is_the_default() -> None:
    assert config_wire.config_from_proto(pb.EvaluationConfig()) == EvaluationConfig()


def test_a_policy_survives_the_wire() -> None:
    policy = GatePolicy(
        (
            GateCondition(metric=Metric("chrf"), arm=Arm.RAG, reference=Arm.BASE, at_least=-0.1, tier=Tier.ADVISORY),
            GateCondition(
                metric=Metric("json_valid"), at_least=0.9, tier=Tier.SUPPORTING, slice="label:a", expected=0.95
            ),
        ),
        min_coverage=0.0,
        limits=(
            GateLimit(Quantity.LATENCY_MS_P95, 900.0, Arm.RAG, Arm.BASE, Tier.SUPPORTING),
            GateLimit(Quantity.COST_PER_1000, 0.5),
        ),
        candidate_count=7,
    )
    assert gate_wire.policy_from_proto(gate_wire.policy_to_proto(StoredPolicy(policy, 0.0))) == policy


def test_the_defaults_of_a_condition_are_adapter_and_critical() -> None:
    message = gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(metric="rouge_l")])
    assert gate_wire.policy_from_proto(message) == GatePolicy((GateCondition(metric=Metric("rouge_l")),), 0.95)


def test_a_figure_without_an_interval_has_nan_ends() -> None:
    message = metric_wire.metric_to_proto(
        MetricResult(arm=Arm.BASE, metric=Metric("chrf"), value=0.5, interval=None, row_count=4, scored_count=3)
    )
    assert math.isnan(message.interval_low)
    assert message.coverage == 0.75


def test_events_of_unknown_kinds_are_not_shown() -> None:
    assert wire.event_to_proto(JobEvent(1, 0.0, "message", {"message": "x"})) is None
    heartbeat = wire.event_to_proto(None)
    assert heartbeat is not None
    assert heartbeat.HasField("heartbeat")


def test_a_dataset_revision_is_read_by_split() -> None:
    message = dataset_pb2.DatasetRevision(
        name="n",
        sha256="s",
        state=dataset_pb2.DATASET_REVISION_STATE_CURATING,
        splits=[dataset_pb2.SplitFile(split=dataset_pb2.SPLIT_HOLDOUT, sha256="h", row_count=9)],
    )
    found = peers.dataset_revision_from_proto(message)
    assert not found.is_ready
    assert found.splits == {"holdout": "h"}
    assert found.row_counts == {"holdout": 9}


def test_an_adapter_revision_names_its_base_and_its_dataset() -> None:
    message = adapter_pb2.AdapterRevision(name="n", base_model="baseModels/m", dataset_revision="d")
    found = peers.adapter_revision_from_proto(message)
    assert (found.name, found.base_model, found.dataset_revision) == ("n", "baseModels/m", "d")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sdk.NotFoundError("x", reason="BASE_MODEL_NOT_FOUND", metadata={"a": "b"}), errors.NotFoundError),
        (sdk.InvalidArgumentError("x", reason="PROMPT_TOO_LONG"), errors.InvalidArgumentError),
        (sdk.PermissionDeniedError("x"), errors.PermissionDeniedError),
        (sdk.ProfileError("x"), errors.InternalError),
    ],
)
def test_an_error_of_another_service_keeps_its_reason(error: sdk.LuthierError, kind: type[errors.LuthierError]) -> None:
    found = error_of(error)
    assert type(found) is kind
    assert (found.reason, str(found), found.metadata) == (error.reason, "x", error.metadata)


def test_a_retryable_error_keeps_its_delay() -> None:
    found = error_of(sdk.UnavailableError("starting", retry_after_s=7.0))
    assert isinstance(found, errors.UnavailableError)
    assert found.retry_after_s == 7.0


def test_the_codec_reads_what_it_wrote_and_fills_what_is_absent() -> None:
    result = MetricResult(
        arm=Arm.RAG, metric=Metric("chrf"), value=1.0, interval=Interval(0.5, 1.0, "m", 9), row_count=4, scored_count=3
    )
    assert from_json(MetricResult, to_json(result)) == result
    assert from_json(TaskSpec, {"text_field": "a"}) == TaskSpec("a")
    assert from_json(EvaluationConfig, to_json(CONFIG)) == CONFIG
    assert from_json(EvaluationConfig, {"seed": 3}) == dataclasses.replace(EvaluationConfig(), seed=3)
