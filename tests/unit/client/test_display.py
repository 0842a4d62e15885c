"""Messages of the contracts as plain values and as short texts."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from luthier.curation.v1.dataset_pb2 import CurationStage
from luthier.display import arm_name, enum_name, interval, size, state_of, to_document, when
from luthier.evaluator.v1 import evaluation_pb2
from luthier.trainer.v1 import training_job_pb2 as pb


def test_a_document_has_numbers_short_enum_values_and_no_unset_fields():
    job = pb.TrainingJob(
        name="tenants/acme/trainingJobs/j1",
        state=pb.TRAINING_JOB_STATE_FAILED,
        error=status_pb2.Status(message="row 7 is too long"),
        create_time=Timestamp(seconds=60),
    )
    document = to_document(job)
    assert (document["state"], document["create_time"]) == ("FAILED", "1970-01-01T00:01:00Z")
    assert document["error"] == {"message": "row 7 is too long", "reason": "UNKNOWN", "metadata": {}}
    assert "end_time" not in document
    assert document["adapter_revision"] == ""
    assert to_document(pb.TrainingJobEvent(event_id=2**40))["event_id"] == 2**40


def test_enum_values_lose_their_prefix_and_unknown_ones_stay_numbers():
    job = pb.TrainingJob(state=pb.TRAINING_JOB_STATE_QUEUED)
    assert state_of(job) == enum_name(job, "state") == "QUEUED"
    job.state = 99  # type: ignore[assignment]
    assert state_of(job) == "99"
    assert arm_name(evaluation_pb2.ARM_ADAPTER_RAG) == "adapter_rag"


def test_an_estimate_without_an_interval_says_so():
    assert interval(0.25, 0.2, 0.3) == "0.250 [0.200, 0.300]"
    assert interval(0.25, float("nan"), float("nan"), "+.1f") == "+0.2 (no interval)"


@pytest.mark.parametrize(("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (2**31, "2.0 GiB")])
def test_a_size_has_a_unit(size_bytes, text):
    assert size(size_bytes) == text


def test_an_unset_time_is_empty():
    assert when(Timestamp()) == ""
    assert when(Timestamp(seconds=86400)) == "1970-01-02 00:00:00"


def test_settings_are_plain_values_with_whole_numbers_as_integers():
    settings = {"seed": 7, "threshold": 0.5, "entities": ["A"], "nested": {"on": True, "none": None}}
    document = to_document(CurationStage(stage="s", settings=settings))
    assert document == {"stage": "s", "settings": settings}
    assert isinstance(document["settings"]["seed"], int)
