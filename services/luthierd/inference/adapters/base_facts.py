"""What an adapter must fit: the modules of a base model's files, its tokenizer and its chat template."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthierd.inference.adapters.safetensors_header import read_header

HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
"""A model that ties its head to its embedding stores no weights for the head."""


@dataclass(frozen=True)
class BaseFacts:
    """`shapes`: the weight's shape of each module, (outputs, inputs) for a linear one. Digests as the trainer makes
    them (`BaseModel.tokenizer_sha256` and `.chat_template_sha256` of its contract); empty if there is no such file.
    """

    shapes: Mapping[str, tuple[int, ...]]
    tokenizer_sha256: str
    chat_template_sha256: str


def read_base_facts(folder: pathlib.Path) -> BaseFacts:
    """The facts of a base model's folder. HeaderInvalidError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= {
            name.removesuffix(".weight"): tensor.shape
            for name, tensor in read_header(path).items()
            if name.endswith(".weight")
        }
    if EMBEDDING in shapes:
        shapes.setdefault(HEAD, shapes[EMBEDDING])
    tokenizer = folder / "tokenizer.json"
    template = _chat_template(folder)
    return BaseFacts(
        shapes=shapes,
        tokenizer_sha256=hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else "",
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else "",
    )


def _chat_template(folder: pathlib.Path) -> str:
    """Its own file goes before the tokenizer's configuration."""
    path = folder / "chat_template.jinja"
    template: Any = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not template and (folder / "tokenizer_config.json").is_file():
        template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else ""
