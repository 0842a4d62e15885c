"""Proto <-> domain of feedback and capture, both ways. Requests are checked here, once."""

from __future__ import annotations

from luthier.inference.v1 import feedback_pb2, feedback_service_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.inference.api.deployment_wire import timestamp
from luthierd.inference.domain import feedback as domain
from luthierd.names import CAPTURE_POLICY

_RATINGS = {
    domain.Rating.UNSPECIFIED: feedback_pb2.RATING_UNSPECIFIED,
    domain.Rating.BAD: feedback_pb2.RATING_BAD,
    domain.Rating.GOOD: feedback_pb2.RATING_GOOD,
}
_RATING_OF: dict[int, domain.Rating] = {number: rating for rating, number in _RATINGS.items()}
_KINDS = {
    domain.FileKind.PART: feedback_pb2.CAPTURE_FILE_KIND_PART,
    domain.FileKind.EXPORT: feedback_pb2.CAPTURE_FILE_KIND_EXPORT,
}
_KIND_OF: dict[int, domain.FileKind] = {number: kind for kind, number in _KINDS.items()}


def rating_from_proto(value: int) -> domain.Rating:
    """InvalidArgumentError for a number that is no rating."""
    if value not in _RATING_OF:
        raise InvalidArgumentError.of_field("rating", f"{value} is not a rating")
    return _RATING_OF[value]


def opinion_from_proto(request: feedback_service_pb2.RecordFeedbackRequest) -> domain.Opinion:
    """InvalidArgumentError if it says nothing, or too much."""
    return domain.Opinion.parse(rating_from_proto(request.rating), request.correction, tuple(request.labels))


def kind_from_proto(value: int) -> domain.FileKind | None:
    """None for every kind. InvalidArgumentError for an unknown number."""
    if value == feedback_pb2.CAPTURE_FILE_KIND_UNSPECIFIED:
        return None
    if value not in _KIND_OF:
        raise InvalidArgumentError.of_field("kind", f"{value} is not a kind of capture file")
    return _KIND_OF[value]


def change_from_proto(policy: feedback_pb2.CapturePolicy) -> domain.PolicyChange:
    """The fields that are set."""
    return domain.PolicyChange(
        enabled=policy.enabled if policy.HasField("enabled") else None,
        retention_s=policy.retention.ToMicroseconds() / 1e6 if policy.HasField("retention") else None,
        sample_rate=policy.sample_rate if policy.HasField("sample_rate") else None,
    )


def policy_to_proto(policy: domain.CapturePolicy) -> feedback_pb2.CapturePolicy:
    """Every field set; `update_time` unless it was never changed."""
    message = feedback_pb2.CapturePolicy(
        name=CAPTURE_POLICY.format(policy.tenant),
        enabled=policy.enabled,
        sample_rate=policy.sample_rate,
        etag=policy.etag,
    )
    message.retention.FromMicroseconds(round(policy.retention_s * 1e6))
    if policy.change:
        message.update_time.CopyFrom(timestamp(policy.update_time))
    return message


def feedback_to_proto(kept: domain.Feedback) -> feedback_pb2.Feedback:
    """Feedback with the answer that it is about."""
    response, opinion = kept.response, kept.opinion
    return feedback_pb2.Feedback(
        name=f"tenants/{response.tenant}/feedback/{response.response_id}",
        response_id=response.response_id,
        rating=_RATINGS[opinion.rating],
        correction=opinion.correction,
        labels=opinion.labels,
        create_time=timestamp(kept.create_time),
        update_time=timestamp(kept.update_time),
        target=response.target,
        loaded_adapter=response.loaded_adapter,
        deployment_revision=response.deployment_revision,
        response_time=timestamp(response.create_time),
    )


def file_to_proto(file: domain.CaptureFile) -> feedback_pb2.CaptureFile:
    """A file."""
    message = feedback_pb2.CaptureFile(
        name=file.name,
        kind=_KINDS[file.kind],
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        row_count=file.row_count,
        create_time=timestamp(file.create_time),
    )
    if file.row_count:
        message.oldest_response_time.CopyFrom(timestamp(file.oldest_time))
    return message
