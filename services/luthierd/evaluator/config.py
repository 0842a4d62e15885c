"""Configuration of the evaluator: `LUTHIER_EVALUATOR_*`."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from luthierd.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig(ServerConfig):
    """What the evaluator needs beyond what every server needs."""

    inference_patience_s: float = 180.0
    """Seconds that a query waits for an inference service that is away or full before the evaluation fails; the answers
    so far are kept."""
    answer_timeout_s: float = 240.0
    """Seconds that one answer may take, the start of the engine and the loading of the adapter included."""
    shot_characters: int = 240
    """Characters of an example's question in a prompt; longer ones are cut. More make retrieval arms slower."""
    endpoints_path: pathlib.Path | None = None
    """YAML file of the OpenAI-compatible servers that evaluations may call (`models/endpoints.py`); empty: none."""
    cache_retention_s: float = 180 * 86400.0
    """Seconds for which judgements and retrieval indexes are kept for later evaluations; then they are made again."""
    lm_tasks_path: pathlib.Path | None = None
    """Folder with YAML files of further lm-evaluation-harness tasks that evaluations may name; empty: the shipped ones
    only. A task can run code: take files that you trust, over data that lies on this machine."""
