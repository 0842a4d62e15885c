"""Between the contract and the domain."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from luthier.curation.v1 import dataset_pb2 as pb
from luthierd.curation.api import dataset_wire as wire
from luthierd.curation.domain import RevisionContent, Split, SplitFile, StageSummary
from luthierd.curation.recipe import Recipe, parse_recipe
from luthierd.curation.revisions import Revision
from luthierd.curation.stages.stage import RecipeError
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import JobEvent, JobState

DEFAULT = parse_recipe(None)


def revision(state: JobState, **fields: Any) -> Revision:
    values = {"content": None, "error": None, "create_time": 1.5, "end_time": 2.5} | fields
    return Revision(name="n", state=state, source_sha256="source", recipe=DEFAULT.to_json(), **values)


@pytest.mark.parametrize(
    "recipe",
    [
        DEFAULT,
        parse_recipe(
            {
                "stages": [
                    {"stage": "clean", "settings": {"min_completion_characters": 2}},
                    {"stage": "pii", "settings": {"action": "report", "entities": ["PERSON"], "min_score": 0}},
                    {"stage": "split", "settings": {"holdout_fraction": 0, "seed": -3, "max_train_rows": 5}},
                ]
            }
        ),
    ],
)
def test_a_recipe_survives_the_round_trip(recipe: Recipe) -> None:
    message = wire.revision_to_proto(dataclasses.replace(revision(JobState.QUEUED), recipe=recipe.to_json())).recipe
    assert wire.recipe_from_proto(message) == recipe


def test_unset_and_zero_differ() -> None:
    def holdout_fraction(**settings: float) -> float:
        message = pb.CurationRecipe(stages=[pb.CurationStage(stage="split", settings=settings)])
        return float(wire.recipe_from_proto(message).stages[0].settings.holdout_fraction)

    assert holdout_fraction() == 0.2
    assert holdout_fraction(holdout_fraction=0) == 0
    assert wire.recipe_from_proto(pb.CurationRecipe()) == DEFAULT


def test_not_a_number_is_refused_by_name() -> None:
    message = pb.CurationRecipe(stages=[pb.CurationStage(stage="pii", settings={"min_score": float("nan")})])
    with pytest.raises(RecipeError, match=r"pii\.min_score"):
        wire.recipe_from_proto(message)


def test_a_ready_revision_carries_its_content_and_a_failed_one_its_error() -> None:
    content = RevisionContent(
        "s", (SplitFile(Split.TRAIN, "t", 10, 2, 1),), (StageSummary("clean", 1, 0, {"row_too_long": 1}),), "d"
    )
    message = wire.revision_to_proto(revision(JobState.SUCCEEDED, content=content))
    assert message.state == pb.DATASET_REVISION_STATE_READY
    assert (message.sha256, message.datasheet_sha256) == ("s", "d")
    assert message.splits[0] == pb.SplitFile(
        split=pb.SPLIT_TRAIN, sha256="t", size_bytes=10, row_count=2, group_count=1
    )
    assert dict(message.stages[0].reason_counts) == {"row_too_long": 1}
    assert message.end_time.ToMilliseconds() == 2500

    error = {"code": "INVALID_ARGUMENT", "reason": "SPLIT_WOULD_BE_EMPTY", "message": "why", "metadata": {}}
    failed = wire.revision_to_proto(revision(JobState.FAILED, error=error))
    assert (failed.error.message, failed.error.code) == ("why", 3)


def test_every_state_of_a_job_is_a_state_of_a_revision() -> None:
    for state in JobState:
        event = wire.event_to_proto(JobEvent(1, 0.0, "state", {"state": state.value}))
        assert event is not None
        assert event.state != pb.DATASET_REVISION_STATE_UNSPECIFIED


def test_progress_and_heartbeats_are_told_and_other_kinds_are_not() -> None:
    data = {"stage": "pii", "done_row_count": 1, "total_row_count": 2}
    event = wire.event_to_proto(JobEvent(7, 1.0, "progress", data))
    assert event is not None
    assert (event.event_id, event.progress.stage, event.progress.total_row_count) == (7, "pii", 2)
    heartbeat = wire.event_to_proto(None)
    assert heartbeat is not None
    assert heartbeat.HasField("heartbeat")
    assert wire.event_to_proto(JobEvent(8, 1.0, "message", {"message": "x"})) is None


def test_a_split_must_be_named() -> None:
    assert wire.split_from_proto(pb.SPLIT_HOLDOUT) is Split.HOLDOUT
    with pytest.raises(InvalidArgumentError):
        wire.split_from_proto(pb.SPLIT_UNSPECIFIED)
