"""What people judge: the items of a queue, in random order and at random positions, and the votes on them."""

from __future__ import annotations

import enum
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthierd.evaluator.domain.arm import Arm

MAX_ARMS = 8
MAX_ROWS = 10_000
MAX_VOTES_PER_ITEM = 20
MAX_COMMENT_CHARACTERS = 2000
LOWEST_RATING, HIGHEST_RATING = 1, 5


class Mode(enum.StrEnum):
    """What raters do: say which of two answers is better, or rate one."""

    PAIRWISE = "pairwise"
    RATING = "rating"


class Choice(enum.StrEnum):
    """Which of two answers is better, as the rater saw them."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """How a queue is made; bounds: `AnnotationQueue` of the contract."""

    evaluation: str
    arms: tuple[Arm, ...] = ()
    mode: Mode = Mode.PAIRWISE
    row_limit: int = 0
    votes_per_item: int = 2
    seed: int = 0
    shows_reference: bool = False


@dataclass(frozen=True, kw_only=True)
class AnnotationQueue:
    """A queue. `items_sha256` is the blob with its items."""

    name: str
    config: QueueConfig
    item_count: int
    items_sha256: str
    create_time: float


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to judge: a row, and the answers of some arms in the queue's order."""

    item_id: str
    row_id: str
    group: str
    question: str
    reference: str
    arms: tuple[Arm, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What a rater said. `arms` are those whose answers were shown, left first; `choice` is set in PAIRWISE, `rating`
    in RATING.
    """

    item_id: str
    rater: str
    arms: tuple[Arm, ...]
    choice: Choice | None
    rating: int | None
    comment: str
    create_time: float

    @property
    def preferred(self) -> Arm | None:
        """In PAIRWISE the arm whose answer is better; None for a tie."""
        if self.choice in (Choice.LEFT, Choice.RIGHT):
            return self.arms[0 if self.choice is Choice.LEFT else 1]
        return None


def make_items(rows: Sequence[Mapping[str, Any]], config: QueueConfig) -> list[Item]:
    """The items of the evaluation's rows (`rows.write_rows`) that every arm answered, in random order: who stops early
    has judged a random part.
    """
    rng = random.Random(f"{config.seed}/items")  # noqa: S311
    usable = [(row, said) for row in rows if (said := _answers(row, config.arms)) is not None]
    chosen = rng.sample(usable, min(len(usable), config.row_limit or MAX_ROWS, MAX_ROWS))
    shown = [config.arms] if config.mode is Mode.PAIRWISE else [(arm,) for arm in config.arms]
    found = [
        Item(
            item_id="",
            **{name: row[name] for name in ("row_id", "group", "question", "reference")},
            arms=arms,
            answers=tuple(said[arm] for arm in arms),
        )
        for row, said in chosen
        for arms in shown
    ]
    rng.shuffle(found)
    return [replace(item, item_id=f"i{number:05d}") for number, item in enumerate(found, start=1)]


def shown_arms(item: Item, *, seed: int, rater: str) -> tuple[Arm, ...]:
    """The arms in the order in which this rater sees their answers; random but fixed for each rater and item."""
    drawn = hashlib.sha256(f"{seed}/{item.item_id}/{rater}".encode()).digest()[0]
    return tuple(reversed(item.arms)) if drawn & 1 else item.arms


def _answers(row: Mapping[str, Any], arms: Sequence[Arm]) -> dict[Arm, str] | None:
    said = {Arm(one["arm"]): one["text"] for one in row["answers"] if not one["error_reason"]}
    return {arm: said[arm] for arm in arms} if all(arm in said for arm in arms) else None
