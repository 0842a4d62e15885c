"""Annotation queues between the contract and the domain, both ways."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from luthier.evaluator.v1 import annotation_queue_pb2 as pb
from luthier.evaluator.v1 import evaluation_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api.evaluation_wire import arm_from_proto
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.human_review.items import AnnotationQueue, Choice, Item, Mode, QueueConfig, Vote
from luthierd.evaluator.human_review.queues import NextItem
from luthierd.evaluator.human_review.summary import AnnotationSummary, Estimate, HumanFigure

_MODES = {
    pb.ANNOTATION_MODE_UNSPECIFIED: Mode.PAIRWISE,
    pb.ANNOTATION_MODE_PAIRWISE: Mode.PAIRWISE,
    pb.ANNOTATION_MODE_RATING: Mode.RATING,
}
_CHOICES = {
    pb.ANNOTATION_CHOICE_UNSPECIFIED: None,
    pb.ANNOTATION_CHOICE_LEFT: Choice.LEFT,
    pb.ANNOTATION_CHOICE_RIGHT: Choice.RIGHT,
    pb.ANNOTATION_CHOICE_TIE: Choice.TIE,
}
DEFAULT_VOTES_PER_ITEM = 2


def config_from_proto(message: pb.AnnotationQueue) -> QueueConfig:
    """How to make a queue; bounds are checked by `queues.check_config`."""
    if message.mode not in _MODES:
        raise InvalidArgumentError.of_field("annotation_queue.mode", f"{message.mode} is neither PAIRWISE nor RATING")
    arms = [arm_from_proto(arm, field=f"annotation_queue.arms[{index}]") for index, arm in enumerate(message.arms)]
    return QueueConfig(
        evaluation=message.evaluation,
        arms=tuple(arms),
        mode=_MODES[message.mode],
        row_limit=message.row_limit,
        votes_per_item=message.votes_per_item if message.HasField("votes_per_item") else DEFAULT_VOTES_PER_ITEM,
        seed=message.seed,
        shows_reference=message.shows_reference,
    )


def queue_to_proto(found: AnnotationQueue) -> pb.AnnotationQueue:
    """A queue."""
    config = found.config
    return pb.AnnotationQueue(
        name=found.name,
        evaluation=config.evaluation,
        arms=[_arm(arm) for arm in config.arms],
        mode=pb.AnnotationMode.Value(f"ANNOTATION_MODE_{config.mode.name}"),
        row_limit=config.row_limit,
        votes_per_item=config.votes_per_item,
        seed=config.seed,
        shows_reference=config.shows_reference,
        item_count=found.item_count,
        create_time=_time(found.create_time),
    )


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
    if number not in _CHOICES:
        raise InvalidArgumentError.of_field("vote.choice", f"{number} is none of LEFT, RIGHT, TIE")
    return _CHOICES[number]


def vote_to_proto(vote: Vote) -> pb.AnnotationVote:
    """A vote, blind as it was given."""
    choice = f"ANNOTATION_CHOICE_{vote.choice.name}" if vote.choice else "ANNOTATION_CHOICE_UNSPECIFIED"
    return pb.AnnotationVote(
        item_id=vote.item_id,
        choice=pb.AnnotationChoice.Value(choice),
        rating=vote.rating or 0,
        comment=vote.comment,
        rater=vote.rater,
        create_time=_time(vote.create_time),
    )


def unblinded_to_proto(vote: Vote, item: Item) -> pb.UnblindedVote:
    """A vote with what the rater did not know."""
    return pb.UnblindedVote(
        vote=vote_to_proto(vote),
        row_id=item.row_id,
        group=item.group,
        arms=[_arm(arm) for arm in vote.arms],
        preferred=_arm(vote.preferred) if vote.preferred else evaluation_pb2.ARM_UNSPECIFIED,
    )


def summary_to_proto(found: AnnotationSummary) -> pb.AnnotationSummary:
    """A summary."""
    return pb.AnnotationSummary(
        vote_count=found.vote_count,
        rater_count=found.rater_count,
        judged_item_count=found.judged_item_count,
        item_count=found.item_count,
        rater_alpha=found.rater_alpha,
        rater_kappa=found.rater_kappa,
        judge_metric=found.judge or "",
        judge_alpha=found.judge_alpha,
        judge_kappa=found.judge_kappa,
        figures=[_figure(figure) for figure in found.figures],
    )


def _figure(found: HumanFigure) -> pb.HumanFigure:
    return pb.HumanFigure(
        arm=_arm(found.arm),
        reference=_arm(found.reference) if found.reference else evaluation_pb2.ARM_UNSPECIFIED,
        human=_estimate(found.human),
        judge=_estimate(found.judge),
        corrected=_estimate(found.corrected),
        judge_weight=found.judge_weight,
    )


def _estimate(found: Estimate | None) -> pb.Estimate | None:
    if found is None:
        return None
    low, high = (found.interval.low, found.interval.high) if found.interval else (float("nan"), float("nan"))
    return pb.Estimate(value=found.value, interval_low=low, interval_high=high, item_count=found.item_count)


def _arm(arm: Arm) -> evaluation_pb2.Arm.ValueType:
    return evaluation_pb2.Arm.Value(f"ARM_{arm.name}")


def _time(seconds: float) -> timestamp_pb2.Timestamp:
    found = timestamp_pb2.Timestamp()
    found.FromMicroseconds(round(seconds * 1_000_000))
    return found
