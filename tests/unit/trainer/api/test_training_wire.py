from __future__ import annotations

import dataclasses

import pytest
from luthier.trainer.v1 import training_job_pb2 as pb
from luthierd.jobs.queue import JobEvent
from luthierd.rpc.wire import from_proto, to_proto
from luthierd.trainer.api import training_wire as wire
from luthierd.trainer.domain.training import TrainingConfig, TrainingProgress


def test_a_config_survives_the_wire() -> None:
    config = TrainingConfig(
        rank=3, alpha=1.5, target_modules=("q_proj", "v_proj"), seed=7, use_rslora=True, method_settings={"a": [1.0]}
    )
    assert TrainingConfig.from_given(wire.config_from_proto(to_proto(pb.TrainingConfig, config))) == config


def test_an_unset_setting_is_not_zero() -> None:
    assert wire.config_from_proto(pb.TrainingConfig()) == {}
    assert wire.config_from_proto(pb.TrainingConfig(early_stopping_patience=0, dropout=0.0)) == {
        "early_stopping_patience": 0,
        "dropout": 0.0,
    }


@pytest.mark.parametrize("validation_loss", [None, 0.0, 1.25])
def test_progress_survives_the_wire(validation_loss: float | None) -> None:
    progress = TrainingProgress(
        step=3,
        total_steps=9,
        loss=2.5,
        learning_rate=1e-3,
        tokens_per_second=250.0,
        remaining_s=12.25,
        gradient_norm=0.5,
        validation_loss=validation_loss,
    )
    assert from_proto(TrainingProgress, wire.progress_to_proto(dataclasses.asdict(progress))) == progress


def test_each_kind_of_event_has_its_form() -> None:
    assert wire.event_to_proto(None).HasField("heartbeat")
    state = wire.event_to_proto(JobEvent(1, 5.0, "state", {"state": "RUNNING"}))
    assert (state.event_id, state.state) == (1, pb.TRAINING_JOB_STATE_RUNNING)
    assert wire.event_to_proto(JobEvent(2, 5.0, "message", {"message": "resumed"})).message == "resumed"
