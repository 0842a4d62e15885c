"""One table from errors to status, for the wire and for the `error` of a job."""

from __future__ import annotations

import base64
import urllib.parse

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from luthierd import errors
from luthierd.rpc.status import code_of, shortened, status_from_failure, status_of

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LuthierError)]


class LeafError(errors.ResourceExhaustedError):
    reason = "TEST_LEAF"


def test_a_subclass_has_the_status_of_its_kind() -> None:
    assert code_of(LeafError("full")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code_of(errors.LuthierError("?")) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_on_the_wire_is_that_of_the_name(kind: type[errors.LuthierError]) -> None:
    status = status_of(kind("x"), "test.luthier.dev")
    assert code_pb2.Code.Name(status.code) == kind.code
    assert status.code == grpc.StatusCode[kind.code].value[0]


def test_there_is_at_most_one_detail_of_each_kind() -> None:
    for kind in KINDS:
        types = [packed.TypeName() for packed in status_of(kind("x"), "test.luthier.dev").details]
        assert len(types) == len(set(types))
        assert types[0] == "google.rpc.ErrorInfo"


def test_the_error_of_a_job_is_the_same_as_on_the_wire() -> None:
    error = LeafError("full", metadata={"queue": "q"})
    status = status_from_failure(error.as_failure(), "trainer.luthier.dev")
    assert (status.code, status.message) == (code_pb2.RESOURCE_EXHAUSTED, "full")
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info == error_details_pb2.ErrorInfo(
        reason="TEST_LEAF", domain="trainer.luthier.dev", metadata={"queue": "q"}
    )


@pytest.mark.parametrize("character", ["x", "é", "\U0001f600", "\ud800", "%"])
def test_a_status_fits_into_trailers_whatever_it_quotes(character: str) -> None:
    """A client drops what exceeds 8 KiB. The details travel in base64, the message percent-encoded."""
    text = character * 8_000
    violations = [errors.FieldViolation(text, text)] * 100
    for error in (
        errors.InvalidArgumentError(text, metadata={"name": text, "more": text}, violations=violations),
        errors.FailedPreconditionError(text, metadata={"name": text, "more": text}),
    ):
        status = status_of(error, "test.luthier.dev")
        size = len(urllib.parse.quote(status.message)) + len(base64.b64encode(status.SerializeToString()))
        assert size < 8_000
        assert status.message.endswith("…")


def test_a_text_is_cut_between_two_characters() -> None:
    assert [shortened("ééé", limit) for limit in (6, 5, 4)] == ["ééé", "é…", "…"]
