"""Challenge cases: prompts, and how a good assistant behaves. Checked once, when they are uploaded."""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.evaluator.dataset.abstention import Behaviour
from luthierd.evaluator.domain.rows import Message
from luthierd.jsonl import read_lines, write_lines

MAX_CASES = 1000
MAX_TURNS = 16
# A message holds at most 1,000 cases: with text and reference at this bound a tenth of them fills one.
MAX_TEXT_BYTES = 16 * 1024
MAX_ID_CHARACTERS = 200
ROLES = ("system", "user", "assistant")


class ChallengeCaseError(InvalidArgumentError):
    """A case that cannot be used."""

    reason = "CHALLENGE_CASE_INVALID"


class Kind(enum.StrEnum):
    """What makes a case hard."""

    VAGUE = "vague"
    EMOTIONAL = "emotional"
    INCOMPLETE = "incomplete"
    HOSTILE = "hostile"
    OUT_OF_SCOPE = "out_of_scope"


@dataclass(frozen=True, kw_only=True)
class ChallengeCase:
    """One case. `reference` is empty unless an answer is expected; `group` is that of the row it was made of."""

    case_id: str
    kind: Kind
    turns: tuple[Message, ...]
    expected: Behaviour
    reference: str = ""
    group: str = ""
    source_row_id: str = ""
    origin: str = ""


@dataclass(frozen=True)
class CaseFile:
    """Cases as they are kept: one JSON line each, and the digest of the whole."""

    data: bytes
    sha256: str
    kind_counts: dict[str, int]


def check_cases(cases: Sequence[ChallengeCase]) -> None:
    """ChallengeCaseError naming every field that is wrong."""
    violations = []
    if not 1 <= len(cases) <= MAX_CASES:
        violations.append(FieldViolation("cases", f"a set has 1 to {MAX_CASES:,} cases, this one {len(cases):,}"))
    ids = Counter(case.case_id for case in cases)
    for index, case in enumerate(cases):
        violations += [FieldViolation(f"cases[{index}].{field}", text) for field, text in _problems(case, ids)]
    if violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:5])
        raise ChallengeCaseError(f"the challenge cases are wrong: {message}", violations=violations[:100])


def _problems(case: ChallengeCase, ids: Counter[str]) -> list[tuple[str, str]]:
    found = []
    if not 1 <= len(case.case_id) <= MAX_ID_CHARACTERS:
        found.append(("case_id", f"it must have 1 to {MAX_ID_CHARACTERS} characters"))
    if ids[case.case_id] > 1:
        found.append(("case_id", f"{case.case_id!r} is used {ids[case.case_id]} times"))
    if not 1 <= len(case.turns) <= MAX_TURNS or case.turns[-1].role != "user":
        found.append(("turns", f"a case has 1 to {MAX_TURNS} turns, the last one the user's"))
    if any(turn.role not in ROLES for turn in case.turns):
        found.append(("turns", f"a role is one of {', '.join(ROLES)}"))
    if sum(len(turn.content.encode()) for turn in case.turns) > MAX_TEXT_BYTES:
        found.append(("turns", f"the turns exceed {MAX_TEXT_BYTES:,} bytes"))
    if len(case.reference.encode()) > MAX_TEXT_BYTES:
        found.append(("reference", f"it exceeds {MAX_TEXT_BYTES:,} bytes"))
    if (case.expected is Behaviour.ANSWER) != bool(case.reference.strip()):
        found.append(("reference", "an expected answer needs one; a case that expects no answer has none"))
    if max(len(case.group), len(case.source_row_id), len(case.origin)) > MAX_ID_CHARACTERS:
        found.append(("group", f"group, source_row_id and origin have at most {MAX_ID_CHARACTERS} characters each"))
    return found


def write_cases(cases: Sequence[ChallengeCase]) -> CaseFile:
    """The same cases in the same order give the same bytes."""
    data = write_lines(map(_plain, cases))
    counts = Counter(case.kind.value for case in cases)
    return CaseFile(data, hashlib.sha256(data).hexdigest(), {kind.value: counts[kind.value] for kind in Kind})


def read_cases(data: bytes) -> list[ChallengeCase]:
    """What `write_cases` wrote."""
    found = []
    for raw in read_lines(data):
        turns = tuple(Message(role, content) for role, content in raw.pop("turns"))
        kind, expected = Kind(raw.pop("kind")), Behaviour(raw.pop("expected"))
        found.append(ChallengeCase(kind=kind, expected=expected, turns=turns, **raw))
    return found


def _plain(case: ChallengeCase) -> dict[str, object]:
    return {
        "case_id": case.case_id,
        "kind": case.kind.value,
        "turns": [[turn.role, turn.content] for turn in case.turns],
        "expected": case.expected.value,
        "reference": case.reference,
        "group": case.group or case.case_id,
        "source_row_id": case.source_row_id,
        "origin": case.origin,
    }
