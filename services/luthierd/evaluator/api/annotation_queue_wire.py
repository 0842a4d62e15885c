"""Annotation queues between the contract and the domain."""

from __future__ import annotations

import dataclasses

from luthier.evaluator.v1 import annotation_queue_pb2 as pb

from luthierd.evaluator.human_review.items import AnnotationQueue, Choice, Item, QueueConfig, Vote
from luthierd.evaluator.human_review.queues import NextItem
from luthierd.rpc.wire import enum_from_proto, from_proto, to_proto


def config_from_proto(message: pb.AnnotationQueue) -> QueueConfig:
    """How to make a queue; bounds are checked by `queues.check_config`."""
    return from_proto(QueueConfig, message, path="annotation_queue", evaluation=message.evaluation)


def queue_to_proto(found: AnnotationQueue) -> pb.AnnotationQueue:
    """A queue."""
    config = {field.name: getattr(found.config, field.name) for field in dataclasses.fields(found.config)}
    return to_proto(pb.AnnotationQueue, found, **config)


def item_to_proto(found: NextItem) -> pb.AnnotationItem | None:
    """An item as a rater may see it: nothing of its arms, row and group."""
    if found.item is None:
        return None
    return pb.AnnotationItem(
        item_id=found.item.item_id,
        question=found.item.question,
        reference=found.item.reference if found.shows_reference else "",
        answers=found.answers,
    )


def choice_from_proto(number: pb.AnnotationChoice.ValueType) -> Choice | None:
    """InvalidArgumentError for a number that is no choice."""
    return enum_from_proto(Choice, pb.AnnotationChoice.DESCRIPTOR, number, path="vote.choice") if number else None


def vote_to_proto(vote: Vote) -> pb.AnnotationVote:
    """A vote, blind as it was given."""
    return to_proto(pb.AnnotationVote, vote, rating=vote.rating or 0)


def unblinded_to_proto(vote: Vote, item: Item) -> pb.UnblindedVote:
    """A vote with what the rater did not know."""
    return to_proto(pb.UnblindedVote, vote, vote=vote_to_proto(vote), row_id=item.row_id, group=item.group)
