"""What is checked before a job is accepted."""

from __future__ import annotations

import pytest
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.domain.training import InvalidTrainingConfigError, TrainingConfig
from luthierd.trainer.jobs import with_row_limit

INFO = BaseModelInfo(
    sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    chat_template_sha256="c" * 64,
    architecture="LlamaForCausalLM",
    parameter_count=1,
    context_window_tokens=512,
    size_bytes=1,
)


def test_the_row_limit_is_the_window_unless_a_smaller_one_is_given() -> None:
    assert with_row_limit(TrainingConfig(), INFO).max_seq_length == 512
    assert with_row_limit(TrainingConfig(max_seq_length=100), INFO).max_seq_length == 100
    with pytest.raises(InvalidTrainingConfigError, match="window of 512"):
        with_row_limit(TrainingConfig(max_seq_length=513), INFO)
