"""Between the contract and the domain."""

from __future__ import annotations

import pytest
from luthier.curation.v1 import dataset_pb2 as pb
from luthierd.curation.api import dataset_wire as wire
from luthierd.curation.domain import RevisionContent, Split, SplitFile, Step, StepSummary
from luthierd.curation.recipe import Recipe, RecipeError, parse_recipe
from luthierd.curation.revisions import Revision
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import JobEvent, JobState


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        parse_recipe(
            {
                "clean": {"min_completion_characters": 2},
                "pii": {"action": "report", "entities": ["PERSON"], "min_score": 0},
                "split": {"holdout_fraction": 0, "seed": -3, "max_train_rows": 5},
                "deduplicate": {"near_duplicate_threshold": 1},
            }
        ),
    ],
)
def test_a_recipe_survives_the_round_trip(recipe: Recipe) -> None:
    assert wire.recipe_from_proto(wire.recipe_to_proto(recipe)) == recipe


def test_unset_and_zero_differ() -> None:
    assert wire.recipe_from_proto(pb.CurationRecipe()).split.holdout_fraction == 0.2
    zero = pb.CurationRecipe(split=pb.SplitStep(holdout_fraction=0))
    assert wire.recipe_from_proto(zero).split.holdout_fraction == 0


def test_an_action_of_a_newer_contract_is_named() -> None:
    with pytest.raises(RecipeError, match=r"pii\.action"):
        wire.recipe_from_proto(pb.CurationRecipe(pii=pb.PiiStep(action=9)))  # type: ignore[arg-type]


def test_a_ready_revision_carries_its_content_and_a_failed_one_its_error() -> None:
    content = RevisionContent(
        "s", (SplitFile(Split.TRAIN, "t", 10, 2, 1),), (StepSummary(Step.CLEAN, 1, 0, {"row_too_long": 1}),), "d"
    )
    ready = Revision("n", JobState.SUCCEEDED, "source", Recipe(), content, None, 1.5, 2.5)
    message = wire.revision_to_proto(ready)
    assert message.state == pb.DATASET_REVISION_STATE_READY
    assert (message.sha256, message.datasheet_sha256) == ("s", "d")
    assert message.splits[0] == pb.SplitFile(
        split=pb.SPLIT_TRAIN, sha256="t", size_bytes=10, row_count=2, group_count=1
    )
    assert dict(message.steps[0].reason_counts) == {"row_too_long": 1}
    assert message.end_time.ToMilliseconds() == 2500

    error = {"code": "INVALID_ARGUMENT", "reason": "SPLIT_WOULD_BE_EMPTY", "message": "why", "metadata": {}}
    failed = wire.revision_to_proto(Revision("n", JobState.FAILED, "s", Recipe(), None, error, 1.5, 2.5))
    assert (failed.error.message, failed.error.code) == ("why", 3)


def test_every_state_of_a_job_is_a_state_of_a_revision() -> None:
    for state in JobState:
        event = wire.event_to_proto(JobEvent(1, 0.0, "state", {"state": state.value}))
        assert event is not None
        assert event.state != pb.DATASET_REVISION_STATE_UNSPECIFIED


def test_progress_and_heartbeats_are_told_and_other_kinds_are_not() -> None:
    data = {"step": "pii", "done_row_count": 1, "total_row_count": 2}
    event = wire.event_to_proto(JobEvent(7, 1.0, "progress", data))
    assert event is not None
    assert (event.event_id, event.progress.step, event.progress.total_row_count) == (7, "pii", 2)
    heartbeat = wire.event_to_proto(None)
    assert heartbeat is not None
    assert heartbeat.HasField("heartbeat")
    assert wire.event_to_proto(JobEvent(8, 1.0, "message", {"message": "x"})) is None


def test_a_split_must_be_named() -> None:
    assert wire.split_from_proto(pb.SPLIT_HOLDOUT) is Split.HOLDOUT
    with pytest.raises(InvalidArgumentError):
        wire.split_from_proto(pb.SPLIT_UNSPECIFIED)
