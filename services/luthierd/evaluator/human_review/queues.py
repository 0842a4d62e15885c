"""Annotation queues as a resource: people compare or rate an evaluation's answers blindly."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthierd.codec import from_json
from luthierd.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
)
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.human_review.items import (
    HIGHEST_RATING,
    LOWEST_RATING,
    MAX_ARMS,
    MAX_COMMENT_CHARACTERS,
    MAX_ROWS,
    MAX_VOTES_PER_ITEM,
    AnnotationQueue,
    Choice,
    Item,
    Mode,
    QueueConfig,
    Vote,
    make_items,
    shown_arms,
)
from luthierd.evaluator.human_review.summary import AnnotationSummary, summarise
from luthierd.jsonl import read_lines, write_lines
from luthierd.names import ANNOTATION_QUEUE, EVALUATION, TENANT, parse_id
from luthierd.paging import Page, PageRequest
from luthierd.storage.blobs import BlobStore


class QueueNotFoundError(NotFoundError):
    """No such queue."""

    reason = "ANNOTATION_QUEUE_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no annotation queue {name}", metadata={"annotation_queue": name})


class QueueExistsError(AlreadyExistsError):
    """The name is taken; queues are immutable."""

    reason = "ANNOTATION_QUEUE_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists; choose another id", metadata={"annotation_queue": name})


class ItemNotFoundError(NotFoundError):
    """The queue has no such item."""

    reason = "ANNOTATION_ITEM_NOT_FOUND"

    def __init__(self, queue: str, item_id: str) -> None:
        super().__init__(
            f"{queue} has no item {item_id!r}; ask for the next one",
            metadata={"annotation_queue": queue, "item": item_id},
        )


class VoteExistsError(AlreadyExistsError):
    """The rater has already judged the item; votes are immutable."""

    reason = "ANNOTATION_VOTE_EXISTS"

    def __init__(self, item_id: str, rater: str) -> None:
        super().__init__(f"{rater} has judged {item_id} before; votes stay", metadata={"item": item_id, "rater": rater})


class NothingToCompareError(FailedPreconditionError):
    """No row of the evaluation has an answer of every arm."""

    reason = "NOTHING_TO_COMPARE"

    def __init__(self, evaluation: str) -> None:
        super().__init__(
            f"no row of {evaluation} was answered by every one of these arms; name arms that it ran",
            metadata={"evaluation": evaluation},
        )


@dataclass(frozen=True)
class NextItem:
    """The item for a rater, its answers in the order to show; None when nothing is left."""

    item: Item | None
    answers: tuple[str, ...]
    shows_reference: bool
    judged_count: int
    waiting_count: int


class AnnotationStore(Protocol):
    """Where queues and votes are kept."""

    async def add(self, queue: AnnotationQueue) -> None:
        """QueueExistsError on a clash."""

    async def get(self, name: str) -> AnnotationQueue:
        """QueueNotFoundError."""

    async def list(self, name_prefix: str, page: PageRequest) -> Page[AnnotationQueue]:
        """By name."""

    async def add_vote(self, queue: str, vote: Vote) -> None:
        """VoteExistsError if the rater judged the item before."""

    async def votes(self, queue: str) -> Sequence[Vote]:
        """All votes, by item and rater."""


class Evaluations(Protocol):
    """Finished evaluations."""

    async def scored_rows(self, name: str) -> Sequence[dict[str, Any]]:
        """All rows with answers and scores (`rows.write_rows`). EvaluationNotFoundError, EvaluationNotFinishedError."""


class AnnotationQueues:
    """The use cases of `AnnotationQueueService`."""

    def __init__(
        self,
        store: AnnotationStore,
        evaluations: Evaluations,
        blobs: BlobStore,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._evaluations = evaluations
        self._blobs = blobs
        self._now = now

    async def create(self, parent: str, queue_id: str, config: QueueConfig) -> AnnotationQueue:
        """A queue of a finished evaluation. QueueExistsError, NothingToCompareError, the evaluation's errors."""
        (tenant,) = TENANT.parse(parent, field="parent")
        EVALUATION.parse(config.evaluation, field="annotation_queue.evaluation")
        check_config(config)
        queue_id = parse_id(queue_id or f"q{uuid.uuid4().hex[:12]}", field="annotation_queue_id")
        rows = await self._evaluations.scored_rows(config.evaluation)
        items = await asyncio.to_thread(make_items, rows, config)
        if not items:
            raise NothingToCompareError(config.evaluation)
        blob = await asyncio.to_thread(self._blobs.put_bytes, write_lines(items))
        name = ANNOTATION_QUEUE.format(tenant, queue_id)
        queue = AnnotationQueue(
            name=name,
            config=config,
            item_count=len(items),
            items_sha256=blob.sha256,
            create_time=self._now(),
        )
        await self._store.add(queue)
        return queue

    async def get(self, name: str) -> AnnotationQueue:
        """QueueNotFoundError."""
        ANNOTATION_QUEUE.parse(name)
        return await self._store.get(name)

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[AnnotationQueue]:
        """A page of a tenant's queues, by name."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        return await self._store.list(f"{parent}/annotationQueues/", page)

    async def next_item(self, name: str, *, rater: str) -> NextItem:
        """The first item in the queue's order that lacks votes and that the rater has not judged."""
        queue = await self.get(name)
        votes = await self._store.votes(name)
        judged = {vote.item_id for vote in votes if vote.rater == rater}
        counts = Counter(vote.item_id for vote in votes)
        items = await self._read_items(queue)
        waiting = [
            item for item in items if item.item_id not in judged and counts[item.item_id] < queue.config.votes_per_item
        ]
        if not waiting:
            return NextItem(None, (), False, len(judged), 0)
        item = waiting[0]
        said = dict(zip(item.arms, item.answers, strict=True))
        answers = tuple(said[arm] for arm in shown_arms(item, seed=queue.config.seed, rater=rater))
        return NextItem(item, answers, queue.config.shows_reference, len(judged), len(waiting))

    async def record(
        self, name: str, *, item_id: str, rater: str, choice: Choice | None, rating: int | None, comment: str
    ) -> Vote:
        """Stores a vote. ItemNotFoundError, VoteExistsError; InvalidArgumentError for a vote of the other mode."""
        queue = await self.get(name)
        _check_vote(queue.config.mode, choice, rating, comment)
        item = next((item for item in await self._read_items(queue) if item.item_id == item_id), None)
        if item is None:
            raise ItemNotFoundError(name, item_id)
        vote = Vote(
            item_id=item_id,
            rater=rater,
            arms=shown_arms(item, seed=queue.config.seed, rater=rater),
            choice=choice,
            rating=rating,
            comment=comment,
            create_time=self._now(),
        )
        await self._store.add_vote(name, vote)
        return vote

    async def votes(self, name: str, page_size: int, page_token: str) -> Page[tuple[Vote, Item]]:
        """A page of votes with what they were about, by item and rater."""
        page = PageRequest.parse(page_size, page_token, name)
        queue = await self.get(name)
        by_id = {item.item_id: item for item in await self._read_items(queue)}
        return page.slice([(vote, by_id[vote.item_id]) for vote in await self._store.votes(name)])

    async def summary(self, name: str, judge: Metric | None) -> AnnotationSummary:
        """The votes summarised, and with a judge its means corrected by them."""
        queue = await self.get(name)
        votes, items = await self._store.votes(name), await self._read_items(queue)
        rows = await self._evaluations.scored_rows(queue.config.evaluation) if judge else []
        return await asyncio.to_thread(summarise, queue.config, items, votes, rows=rows, judge=judge)

    async def _read_items(self, queue: AnnotationQueue) -> Sequence[Item]:
        data = await asyncio.to_thread(self._blobs.read_bytes, queue.items_sha256)
        return [from_json(Item, line) for line in read_lines(data)]


def check_config(config: QueueConfig) -> None:
    """InvalidArgumentError naming every field that is wrong."""
    found = []
    wanted = (2, 2) if config.mode is Mode.PAIRWISE else (1, MAX_ARMS)
    if not wanted[0] <= len(config.arms) <= wanted[1] or len(set(config.arms)) != len(config.arms):
        text = (
            "PAIRWISE takes two different arms"
            if config.mode is Mode.PAIRWISE
            else f"RATING takes 1 to {MAX_ARMS} arms"
        )
        found.append(FieldViolation("annotation_queue.arms", text))
    if not 0 <= config.row_limit <= MAX_ROWS:
        found.append(FieldViolation("annotation_queue.row_limit", f"{config.row_limit} is not in 0 to {MAX_ROWS:,}"))
    if not 1 <= config.votes_per_item <= MAX_VOTES_PER_ITEM:
        text = f"{config.votes_per_item} is not in 1 to {MAX_VOTES_PER_ITEM}"
        found.append(FieldViolation("annotation_queue.votes_per_item", text))
    if found:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in found)
        raise InvalidArgumentError(message, metadata={"field": found[0].field}, violations=found)


def _check_vote(mode: Mode, choice: Choice | None, rating: int | None, comment: str) -> None:
    if len(comment) > MAX_COMMENT_CHARACTERS:
        text = f"{len(comment):,} characters are more than {MAX_COMMENT_CHARACTERS:,}"
        raise InvalidArgumentError.of_field("vote.comment", text)
    if mode is Mode.PAIRWISE and (choice is None or rating is not None):
        raise InvalidArgumentError.of_field("vote.choice", "this queue takes a choice (LEFT, RIGHT, TIE) and no rating")
    if mode is Mode.RATING and (rating is None or choice is not None or not LOWEST_RATING <= rating <= HIGHEST_RATING):
        text = f"this queue takes a rating, {LOWEST_RATING} to {HIGHEST_RATING}, and no choice"
        raise InvalidArgumentError.of_field("vote.rating", text)
