"""Challenge cases as JSONL files that people review: each row has a `review`."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from luthier import config_files
from luthier.cli.session import Session
from luthier.display import to_document
from luthier.errors import ConfigError
from luthier.evaluator.v1.challenge_set_pb2 import ChallengeCase

if TYPE_CHECKING:
    from luthier.client import AsyncClient

REVIEWS = ("proposed", "accepted", "rejected")


def name_or_cases(session: Session, value: str) -> str | list[ChallengeCase]:
    """The name of a set from a name or an id; of a reviewed file its cases."""
    path = pathlib.Path(value)
    return accepted(path, accept_proposed=False) if path.is_file() else session.name("challenge_set", value)


async def uploaded(client: AsyncClient, session: Session, found: str | list[ChallengeCase]) -> str:
    """The name of a set; cases are uploaded as one."""
    return found if isinstance(found, str) else (await client.challenge_sets.create(session.parent, found)).name


def row_of(case: ChallengeCase, *, review: str) -> dict[str, Any]:
    row = to_document(case)
    return {**row, "kind": row["kind"].lower(), "expected": row["expected"].lower(), "review": review}


def accepted(path: pathlib.Path, *, accept_proposed: bool) -> list[ChallengeCase]:
    """The accepted rows of a reviewed file. `ConfigError` for malformed or unreviewed rows."""
    found, waiting_count = [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        case, review = _case(path, number, line)
        waiting_count += review == "proposed"
        if review == "accepted" or (review == "proposed" and accept_proposed):
            found.append(case)
    if waiting_count and not accept_proposed:
        raise ConfigError(
            f'{path}: {waiting_count:,} rows are still "proposed"; set "review" of each to "accepted" or "rejected", '
            "or pass --accept-proposed",
            metadata={"file": str(path), "proposed_count": str(waiting_count)},
        )
    return found


def _case(path: pathlib.Path, number: int, line: str) -> tuple[ChallengeCase, str]:
    where, metadata = f"{path} line {number}", {"line": str(number)}
    try:
        row = json.loads(line)
        review = row.pop("review", "proposed")
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{where} is not a JSON object: {error}", metadata=metadata) from error
    if review not in REVIEWS:
        text = f'"review" is {review!r}, not one of {", ".join(REVIEWS)}'
        raise ConfigError(f"{where}: {text}", metadata=metadata)
    try:
        return config_files.load(row, ChallengeCase), review
    except ConfigError as error:
        error.message = f"{where}: {error.message}"
        error.metadata |= metadata
        raise
