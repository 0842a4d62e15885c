"""Annotation queues over a real server: blind to raters, told apart by token, summed up with a judge."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import luthierd.evaluator
import pytest
from luthier.evaluator.v1 import annotation_queue_pb2 as pb
from luthier.evaluator.v1 import annotation_queue_service_pb2 as api
from luthier.evaluator.v1 import annotation_queue_service_pb2_grpc as rpc
from luthier.evaluator.v1 import evaluation_pb2
from luthierd.evaluator.api.annotation_queue_service import AnnotationQueueServicer
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.deletion import KINDS, REFERRERS
from luthierd.evaluator.human_review.queues import AnnotationQueues
from luthierd.evaluator.human_review.store import SqlAnnotationStore
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.deletions import Deletions
from luthierd.storage.references import References
from luthierd.storage.replays import SqlReplayStore
from support.serving import ISSUER, VERIFIER, bearer, error_info, running

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"
EVALUATION = "tenants/acme/evaluations/e1"
MISSING = "tenants/acme/annotationQueues/none"
BASE, ADAPTER = evaluation_pb2.ARM_BASE, evaluation_pb2.ARM_ADAPTER


def evaluation_rows(count: int) -> bytes:
    """Rows in groups of two; the adapter's answers score higher on three of four; the last row has no base answer."""
    lines = []
    for number in range(count):
        good = number % 4 != 0
        said = [
            {"arm": "base", "text": f"base {number}", "scores": {"rouge_l": 0.3}},
            {"arm": "adapter", "text": f"adapter {number}", "scores": {"rouge_l": 0.6 if good else 0.2}},
        ]
        for one in said:
            one["error_reason"] = "DEADLINE" if number == count - 1 and one["arm"] == "base" else ""
        row = {"row_id": f"r{number}", "group": f"g{number // 2}", "question": f"Q{number}?", "reference": "R"}
        lines.append(json.dumps({**row, "answers": said}))
    return ("\n".join(lines) + "\n").encode()


class FinishedEvaluations:
    """One finished evaluation."""

    async def scored_rows(self, name: str) -> list[dict[str, Any]]:
        assert name == EVALUATION
        return [json.loads(line) for line in evaluation_rows(41).splitlines()]


@dataclass
class Server:
    stub: rpc.AnnotationQueueServiceStub

    async def create(self, **changes: Any) -> pb.AnnotationQueue:
        queue = pb.AnnotationQueue(**{"evaluation": EVALUATION, "arms": [ADAPTER, BASE]} | changes)
        request = api.CreateAnnotationQueueRequest(parent="tenants/acme", annotation_queue=queue)
        return (await self.stub.CreateAnnotationQueue(request, metadata=bearer())).annotation_queue

    async def next(self, queue: str, rater: str) -> api.GetNextAnnotationItemResponse:
        return await self.stub.GetNextAnnotationItem(
            api.GetNextAnnotationItemRequest(parent=queue), metadata=as_(rater)
        )

    async def vote(self, queue: str, rater: str, item_id: str, **said: Any) -> pb.AnnotationVote:
        request = api.RecordAnnotationVoteRequest(parent=queue, vote=pb.AnnotationVote(item_id=item_id, **said))
        return (await self.stub.RecordAnnotationVote(request, metadata=as_(rater))).vote

    async def votes(self, queue: str) -> list[pb.UnblindedVote]:
        request = api.ListAnnotationVotesRequest(parent=queue, page_size=1000)
        return list((await self.stub.ListAnnotationVotes(request, metadata=bearer())).votes)

    async def judge_all(self, queue: str, rater: str, *, most: int = 1000) -> int:
        """Prefers the adapter's answer on rows that are no multiple of four, as the judge does; a tie on row 1."""
        count = 0
        while count < most and (found := await self.next(queue, rater)).HasField("item"):
            left, right = found.item.answers
            number = int(left.split()[1])
            wanted = "base" if number % 4 == 0 else "adapter"
            choice = pb.ANNOTATION_CHOICE_LEFT if left.startswith(wanted) else pb.ANNOTATION_CHOICE_RIGHT
            if number == 1:
                choice = pb.ANNOTATION_CHOICE_TIE
            assert {left.split()[1], right.split()[1]} == {str(number)}
            await self.vote(queue, rater, found.item.item_id, choice=choice)
            count += 1
        return count


def as_(rater: str) -> Any:
    """The metadata of a rater: one scope, a subject of its own."""
    token = ISSUER.issue(tenant="acme", subject=rater, scopes=("evaluator.rate",))
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[Server]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(VERSIONS)
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    queues = AnnotationQueues(SqlAnnotationStore(database), FinishedEvaluations(), blobs)
    deletions = Deletions(database, KINDS, References(database, REFERRERS))
    service = Service(
        name="evaluator",
        servicers=[AnnotationQueueServicer(queues, deletions)],
        verifier=VERIFIER,
        replays=SqlReplayStore(database),
        close=[database.close],
        stopping=asyncio.Event(),
    )
    async with running(service, EvaluatorConfig(home=tmp_path)) as channel:
        yield Server(rpc.AnnotationQueueServiceStub(channel))


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_raters_see_no_arm_and_each_item_until_it_has_its_votes(server: Server) -> None:
    queue = await server.create(votes_per_item=2)
    assert queue.item_count == 40  # the row without a base answer is not judged
    first = await server.next(queue.name, "anna")
    assert first == await server.next(queue.name, "anna")
    assert (first.judged_count, first.waiting_count) == (0, 40)
    assert first.item.reference == ""
    assert "arm" not in {field.name for field in first.item.DESCRIPTOR.fields}
    assert await server.judge_all(queue.name, "anna") == 40
    assert await server.judge_all(queue.name, "ben") == 40
    late = await server.next(queue.name, "carla")
    assert not late.HasField("item")
    votes = await server.votes(queue.name)
    assert len(votes) == 80
    assert {vote.preferred for vote in votes} == {0, ADAPTER, BASE}


async def test_positions_are_balanced_and_drawn_anew_for_each_rater(server: Server) -> None:
    queue = await server.create()
    for rater in ("anna", "ben"):
        await server.judge_all(queue.name, rater)
    shown = {(vote.vote.rater, vote.vote.item_id): vote.arms[0] for vote in await server.votes(queue.name)}
    by_rater = [[arm for (who, _), arm in sorted(shown.items()) if who == rater] for rater in ("anna", "ben")]
    assert by_rater[0] != by_rater[1]
    assert all(10 <= arms.count(ADAPTER) <= 30 for arms in by_rater)


async def test_the_summary_shows_people_judge_and_correction_side_by_side(server: Server) -> None:
    queue = await server.create(votes_per_item=2)
    await server.judge_all(queue.name, "anna", most=24)
    await server.judge_all(queue.name, "ben", most=24)
    request = api.GetAnnotationSummaryRequest(name=queue.name, judge_metric="rouge_l")
    summary = (await server.stub.GetAnnotationSummary(request, metadata=bearer())).summary
    assert (summary.vote_count, summary.rater_count, summary.judged_item_count) == (48, 2, 24)
    assert summary.rater_alpha == summary.rater_kappa == 1.0
    assert summary.judge_kappa > 0.8
    [figure] = summary.figures
    assert (figure.arm, figure.reference) == (ADAPTER, BASE)
    assert figure.judge.value == 0.75
    assert figure.judge.item_count == 40
    assert figure.corrected.interval_low < figure.corrected.value < figure.corrected.interval_high
    human_width = figure.human.interval_high - figure.human.interval_low
    assert figure.corrected.interval_high - figure.corrected.interval_low < human_width
    assert figure.judge_weight > 0.3


async def test_one_answer_at_a_time_is_rated(server: Server) -> None:
    queue = await server.create(mode=pb.ANNOTATION_MODE_RATING, row_limit=10, votes_per_item=1, shows_reference=True)
    assert queue.item_count == 20
    while (found := await server.next(queue.name, "anna")).HasField("item"):
        [answer] = found.item.answers
        assert found.item.reference == "R"
        await server.vote(queue.name, "anna", found.item.item_id, rating=5 if answer.startswith("adapter") else 2)
    summary = await server.stub.GetAnnotationSummary(
        api.GetAnnotationSummaryRequest(name=queue.name), metadata=bearer()
    )
    assert [(one.arm, one.human.value) for one in summary.summary.figures] == [(ADAPTER, 1.0), (BASE, 0.25)]
    assert not summary.summary.figures[0].HasField("judge")


CALLS = [
    ("CreateAnnotationQueue", api.CreateAnnotationQueueRequest(parent="tenants/acme")),
    ("GetAnnotationQueue", api.GetAnnotationQueueRequest(name=MISSING)),
    ("ListAnnotationQueues", api.ListAnnotationQueuesRequest(parent="tenants/acme")),
    ("GetNextAnnotationItem", api.GetNextAnnotationItemRequest(parent=MISSING)),
    ("RecordAnnotationVote", api.RecordAnnotationVoteRequest(parent=MISSING)),
    ("ListAnnotationVotes", api.ListAnnotationVotesRequest(parent=MISSING)),
    ("GetAnnotationSummary", api.GetAnnotationSummaryRequest(name=MISSING)),
]


@pytest.mark.parametrize(("name", "request_message"), CALLS, ids=[name for name, _ in CALLS])
async def test_who_may_not_learns_nothing_and_a_rater_stays_blind(
    server: Server, name: str, request_message: Any
) -> None:
    call = getattr(server.stub, name)
    assert (await refused(call(request_message))).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await refused(call(request_message, metadata=bearer("rival")))).code() is grpc.StatusCode.PERMISSION_DENIED
    rater = await refused(call(request_message, metadata=as_("anna")))
    blind = name in ("GetNextAnnotationItem", "RecordAnnotationVote")
    assert (rater.code() is grpc.StatusCode.PERMISSION_DENIED) is not blind


async def test_what_is_wrong_is_named(server: Server) -> None:
    missing = await refused(server.next(MISSING, "anna"))
    assert error_info(missing).reason == "ANNOTATION_QUEUE_NOT_FOUND"
    for changes, field in (
        ({"arms": [ADAPTER]}, "annotation_queue.arms"),
        ({"arms": [ADAPTER, ADAPTER]}, "annotation_queue.arms"),
        ({"votes_per_item": 21}, "annotation_queue.votes_per_item"),
        ({"row_limit": -1}, "annotation_queue.row_limit"),
    ):
        assert error_info(await refused(server.create(**changes))).metadata["field"] == field
    assert (
        error_info(await refused(server.create(arms=[ADAPTER, evaluation_pb2.ARM_RAG]))).reason == "NOTHING_TO_COMPARE"
    )
    queue = await server.create()
    left = {"choice": pb.ANNOTATION_CHOICE_LEFT}
    unknown = await refused(server.vote(queue.name, "anna", "i99999", **left))
    assert error_info(unknown).reason == "ANNOTATION_ITEM_NOT_FOUND"
    assert (
        error_info(await refused(server.vote(queue.name, "anna", "i00001", rating=3))).metadata["field"]
        == "vote.choice"
    )
    await server.vote(queue.name, "anna", "i00001", **left)
    twice = await refused(server.vote(queue.name, "anna", "i00001", **left))
    assert (twice.code(), error_info(twice).reason) == (grpc.StatusCode.ALREADY_EXISTS, "ANNOTATION_VOTE_EXISTS")
    long = await refused(server.vote(queue.name, "anna", "i00002", comment="x" * 2001, **left))
    assert error_info(long).metadata["field"] == "vote.comment"
