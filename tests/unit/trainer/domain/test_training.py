"""Settings and tasks of training jobs."""

from __future__ import annotations

from typing import Any

import pytest
from luthierd.codec import from_json, to_json
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.domain.training import DatasetSplits, InvalidTrainingConfigError, TrainingConfig, TrainingTask


def test_alpha_and_micro_batch_follow_from_rank_and_batch_unless_given() -> None:
    assert TrainingConfig.from_given({"rank": 4, "batch_size": 6}) == TrainingConfig(
        rank=4, alpha=8.0, batch_size=6, micro_batch_size=6
    )
    assert TrainingConfig.from_given({"alpha": 3.0, "micro_batch_size": 2}).alpha == 3.0


def test_use_rslora_scaling_divides_by_the_root() -> None:
    assert TrainingConfig(rank=16, alpha=32.0).scaling == 2.0
    assert TrainingConfig(rank=16, alpha=32.0, use_rslora=True).scaling == 8.0


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(InvalidTrainingConfigError) as caught:
        TrainingConfig.from_given({"rank": 0, "learning_rate": -1.0, "micro_batch_size": 3})
    fields = {violation.field.rpartition(".")[2] for violation in caught.value.violations}
    assert fields == {"rank", "alpha", "micro_batch_size", "learning_rate"}  # alpha: twice the rank


@pytest.mark.parametrize(
    "given",
    [
        {"dropout": 1.0},
        {"epoch_count": 0.0},
        {"max_steps": -1},
        {"warmup_ratio": 1.5},
        {"dtype": "float16"},
        {"max_seq_length": 3},
        {"seed": -1},
        {"checkpoint_interval_steps": 0},
        {"learning_rate": float("nan")},
    ],
)
def test_a_setting_out_of_its_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidTrainingConfigError, match=next(iter(given))):
        TrainingConfig.from_given(given)


INFO = BaseModelInfo(
    sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    chat_template_sha256="c" * 64,
    architecture="LlamaForCausalLM",
    parameter_count=1,
    context_window_tokens=512,
    size_bytes=1,
)


def test_a_task_survives_its_json_form() -> None:
    task = TrainingTask(
        dataset=DatasetSplits(name="d", sha256="1", train_sha256="2", validation_sha256=""),
        base_model="baseModels/tiny",
        base_model_info=INFO,
        adapter="tenants/acme/adapters/a",
        config=TrainingConfig(target_modules=("q_proj",)),
    )
    assert from_json(TrainingTask, to_json(task)) == task
