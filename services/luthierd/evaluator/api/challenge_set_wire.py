"""Challenge sets between the contract and the domain."""

from __future__ import annotations

from luthier.evaluator.v1 import challenge_set_pb2 as pb

from luthierd.evaluator.dataset.abstention import Behaviour
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.suites.challenge_cases import ChallengeCase, Kind
from luthierd.rpc.wire import enum_from_proto, from_proto


def case_from_proto(message: pb.ChallengeCase, *, path: str) -> ChallengeCase:
    """InvalidArgumentError for an unknown kind or behaviour; the rest is checked by `check_cases`."""
    return from_proto(
        ChallengeCase,
        message,
        path=path,
        case_id=message.case_id,
        kind=enum_from_proto(Kind, pb.ChallengeKind.DESCRIPTOR, message.kind, path=f"{path}.kind"),
        expected=enum_from_proto(Behaviour, pb.ExpectedBehaviour.DESCRIPTOR, message.expected, path=f"{path}.expected"),
        turns=tuple(Message(turn.role, turn.content) for turn in message.turns),
    )
