"""Where annotation queues and votes are kept: SQL for the service."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.codec import from_json, to_json
from luthierd.evaluator.human_review.items import AnnotationQueue, Vote
from luthierd.evaluator.human_review.queues import QueueExistsError, QueueNotFoundError, VoteExistsError
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database
from luthierd.storage.tombstones import check_new

_queues = sa.table(
    "annotation_queues", sa.column("name"), sa.column("queue", sa.JSON), sa.column("create_time", sa.Float)
)
_votes = sa.table(
    "annotation_votes",
    *map(sa.column, ("queue", "item_id", "rater")),
    sa.column("vote", sa.JSON),
    sa.column("create_time", sa.Float),
)


class SqlAnnotationStore:
    """See `queues.AnnotationStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, queue: AnnotationQueue) -> None:
        """QueueExistsError on a clash; the errors of `tombstones.check_new`."""
        values = {"name": queue.name, "queue": to_json(queue), "create_time": queue.create_time}
        try:
            async with self._database.begin() as tx:
                await check_new(tx, queue.name, values["queue"])
                await tx.execute(sa.insert(_queues).values(**values))
        except IntegrityError:
            raise QueueExistsError(queue.name) from None

    async def get(self, name: str) -> AnnotationQueue:
        """QueueNotFoundError."""
        query = sa.select(_queues.c.queue).where(_queues.c.name == name)
        async with self._database.read() as tx:
            found = (await tx.execute(query)).scalar_one_or_none()
        if found is None:
            raise QueueNotFoundError(name)
        return from_json(AnnotationQueue, found)

    async def list(self, name_prefix: str, page: PageRequest) -> Page[AnnotationQueue]:
        """Queues whose names start so, by name."""
        query = sa.select(_queues.c.queue).where(
            _queues.c.name.startswith(name_prefix, autoescape=True), _queues.c.name > page.after
        )
        async with self._database.read() as tx:
            rows = (await tx.execute(query.order_by(_queues.c.name).limit(page.limit))).scalars()
            found = [from_json(AnnotationQueue, row) for row in rows]
        return page.page(found, [one.name for one in found])

    async def add_vote(self, queue: str, vote: Vote) -> None:
        """VoteExistsError if the rater judged the item before."""
        values = {
            "queue": queue,
            "item_id": vote.item_id,
            "rater": vote.rater,
            "vote": to_json(vote),
            "create_time": vote.create_time,
        }
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_votes).values(**values))
        except IntegrityError:
            raise VoteExistsError(vote.item_id, vote.rater) from None

    async def votes(self, queue: str) -> Sequence[Vote]:
        """All votes, by item and rater."""
        query = sa.select(_votes.c.vote).where(_votes.c.queue == queue)
        async with self._database.read() as tx:
            rows = (await tx.execute(query.order_by(_votes.c.item_id, _votes.c.rater))).scalars()
            return [from_json(Vote, row) for row in rows]
