"""The folder of an adapter revision: weights and config as PEFT and vLLM read them, lineage, model card, references."""

from __future__ import annotations

import importlib.metadata
import json
import math
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from luthierd.codec import to_json
from luthierd.files import write_atomically
from luthierd.trainer.domain.adapter_import import AdapterImportTask
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.domain.training import TrainingTask
from luthierd.trainer.loop import Trained
from luthierd.trainer.references import Reference

VERSIONED = ("torch", "transformers", "peft", "safetensors")
LINEAGE_FILE, CARD_FILE, REFERENCE_FILE = "lineage.json", "README.md", "reference.json"


def export_adapter(
    folder: pathlib.Path,
    trained: Trained,
    *,
    task: TrainingTask,
    training_job: str,
    method_description: str,
    row_counts: Mapping[str, int],
    dtype: str,
    references: Sequence[Reference],
) -> None:
    """Writes weights and the three files about them. Nothing in them depends on the time or on this machine's paths."""
    trained.weights.save(folder, base_model=task.base_model)
    lineage = lineage_of(trained, task=task, training_job=training_job, row_counts=row_counts, dtype=dtype)
    _write_about(folder, lineage, model_card(lineage, method_description), dtype=dtype, references=references)


def export_imported(
    folder: pathlib.Path,
    *,
    task: AdapterImportTask,
    adapter_import: str,
    dtype: str,
    rank: int,
    target_modules: Sequence[str],
    notes: Sequence[str],
    references: Sequence[Reference],
) -> None:
    """Writes the three files about an adapter from elsewhere, next to its weights."""
    lineage = {
        "kind": "imported",
        "adapter": task.adapter,
        "adapter_import": adapter_import,
        "imported_by": task.subject,
        "source": {"sha256": task.source_sha256, "files": task.files},
        "base_model": _base_lineage(task.base_model, task.base_model_info),
        "dtype": dtype,
        "result": {"rank": rank, "target_modules": list(target_modules), "notes": list(notes)},
        "versions": _versions(),
    }
    _write_about(folder, lineage, imported_card(lineage), dtype=dtype, references=references)


def _write_about(
    folder: pathlib.Path, lineage: Mapping[str, Any], card: str, *, dtype: str, references: Sequence[Reference]
) -> None:
    _write_json(folder / LINEAGE_FILE, lineage)
    _write_json(folder / REFERENCE_FILE, {"dtype": dtype, "rows": to_json(references)})
    write_atomically(folder / CARD_FILE, iter([card.encode()]))


def lineage_of(
    trained: Trained, *, task: TrainingTask, training_job: str, row_counts: Mapping[str, int], dtype: str
) -> dict[str, Any]:
    """All that is needed to make the adapter again, by digest."""
    return {
        "adapter": task.adapter,
        "training_job": training_job,
        "dataset": {
            "revision": task.dataset.name,
            "sha256": task.dataset.sha256,
            "train_sha256": task.dataset.train_sha256,
            "validation_sha256": task.dataset.validation_sha256,
            "row_counts": dict(row_counts),
        },
        "base_model": _base_lineage(task.base_model, task.base_model_info),
        "config": to_json(task.config),
        "dtype": dtype,
        "seed": task.config.seed,
        "result": {
            "step": trained.step,
            "validation_loss": None if math.isnan(trained.validation_loss) else trained.validation_loss,
            "completion_tokens_per_epoch": trained.label_count,
            "target_modules": list(trained.weights.target_modules),
        },
        "versions": _versions(),
    }


def _base_lineage(name: str, info: BaseModelInfo) -> dict[str, str]:
    return {
        "name": name,
        "sha256": info.sha256,
        "tokenizer_sha256": info.tokenizer_sha256,
        "chat_template_sha256": info.chat_template_sha256,
    }


def _versions() -> dict[str, str]:
    versions = {package: importlib.metadata.version(package) for package in VERSIONED}
    return versions | {"python": platform.python_version(), "machine": platform.machine()}


def model_card(lineage: Mapping[str, Any], method_description: str) -> str:
    """README.md of the revision, with the front matter that model hubs read."""
    config, result, dataset, base = lineage["config"], lineage["result"], lineage["dataset"], lineage["base_model"]
    loss = result["validation_loss"]
    measured = f"{loss:.4f} nats per completion token" if loss is not None else "not measured (no validation split)"
    return f"""---
library_name: peft
pipeline_tag: text-generation
tags: [lora, luthier]
---

# {lineage["adapter"]}

A LoRA adapter (rank {config["rank"]}, alpha {config["alpha"]:g}, on {", ".join(result["target_modules"])}) for
`{base["name"]}`, made by {method_description}.

| what | which |
|---|---|
| base model | `{base["name"]}`, sha256 `{base["sha256"]}` |
| chat template | sha256 `{base["chat_template_sha256"]}` |
| data | `{dataset["revision"]}`, sha256 `{dataset["sha256"]}`, {dataset["row_counts"]["train"]} training rows |
| weights kept | those of step {result["step"]} |
| validation loss | {measured} |
| seed | {lineage["seed"]} |

## Use

Load it on exactly this base model: `peft.PeftModel.from_pretrained(base, folder)`, or deploy it with `luthier deploy`.
Prompts go through the base model's chat template. A correct load reproduces the log-probabilities in `reference.json`.

## Limits

It was tuned on one tenant's data and one task; what it does elsewhere is unknown. It can repeat its training rows.
Evaluate it on a holdout before use (`luthier evaluate`). Settings, digests and versions are in `lineage.json`.
"""


def imported_card(lineage: Mapping[str, Any]) -> str:
    """README.md of an imported revision."""
    result, source, base = lineage["result"], lineage["source"], lineage["base_model"]
    notes = "".join(f"- {note}\n" for note in result["notes"])
    return f"""---
library_name: peft
pipeline_tag: text-generation
tags: [lora, luthier]
---

# {lineage["adapter"]}

A LoRA adapter (rank {result["rank"]}, on {", ".join(result["target_modules"])}) for `{base["name"]}`, trained elsewhere
and imported by {lineage["imported_by"]}.

| what | which |
|---|---|
| base model | `{base["name"]}`, sha256 `{base["sha256"]}` |
| imported files | sha256 `{source["sha256"]}` |

{notes}
Load it on exactly this base model: `peft.PeftModel.from_pretrained(base, folder)`, or deploy it with `luthier deploy`.
A correct load reproduces the log-probabilities in `reference.json`, which PEFT computed. What it was trained on is not
known: evaluate it before use (`luthier evaluate --dataset`).
"""


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomically(path, iter([text.encode() + b"\n"]))
