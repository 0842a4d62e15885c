"""Challenge sets between the contract and the domain, both ways."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from luthier.evaluator.v1 import challenge_set_pb2 as pb

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.dataset.abstention import Behaviour
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.suites.challenge_cases import ChallengeCase, Kind
from luthierd.evaluator.suites.challenge_sets import ChallengeSet

_KINDS = {kind: pb.ChallengeKind.Value(f"CHALLENGE_KIND_{kind.name}") for kind in Kind}
_KIND_OF = {number: kind for kind, number in _KINDS.items()}
_BEHAVIOURS = {one: pb.ExpectedBehaviour.Value(f"EXPECTED_BEHAVIOUR_{one.name}") for one in Behaviour}
_BEHAVIOUR_OF = {number: one for one, number in _BEHAVIOURS.items()}
_TEXTS = ("case_id", "reference", "group", "source_row_id", "origin")


def case_from_proto(message: pb.ChallengeCase, *, field: str) -> ChallengeCase:
    """InvalidArgumentError for a kind or behaviour that is none; the rest is checked by `check_cases`."""
    if message.kind not in _KIND_OF:
        text = f"{message.kind} is not a kind; choose one of {', '.join(Kind)}"
        raise InvalidArgumentError.of_field(f"{field}.kind", text)
    if message.expected not in _BEHAVIOUR_OF:
        text = f"{message.expected} is not a behaviour; choose one of {', '.join(Behaviour)}"
        raise InvalidArgumentError.of_field(f"{field}.expected", text)
    texts = {name: getattr(message, name) for name in _TEXTS}
    turns = tuple(Message(turn.role, turn.content) for turn in message.turns)
    return ChallengeCase(kind=_KIND_OF[message.kind], expected=_BEHAVIOUR_OF[message.expected], turns=turns, **texts)


def case_to_proto(case: ChallengeCase) -> pb.ChallengeCase:
    """A case."""
    return pb.ChallengeCase(
        kind=_KINDS[case.kind],
        expected=_BEHAVIOURS[case.expected],
        turns=[pb.ChallengeTurn(role=turn.role, content=turn.content) for turn in case.turns],
        **{name: getattr(case, name) for name in _TEXTS},
    )


def set_to_proto(found: ChallengeSet) -> pb.ChallengeSet:
    """A set."""
    time = timestamp_pb2.Timestamp()
    time.FromMicroseconds(round(found.create_time * 1_000_000))
    return pb.ChallengeSet(
        name=found.name,
        sha256=found.sha256,
        case_count=found.case_count,
        kind_counts=found.kind_counts,
        reviewer=found.reviewer,
        create_time=time,
    )
