"""Supervised fine-tuning with LoRA: the cross entropy of the completion's tokens; the prompt carries no loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthierd.trainer.recipes.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    import torch

    from luthierd.trainer.blocks.encoding import EncodedRow
    from luthierd.trainer.blocks.lora import LoraWeights


@RECIPES.register
class Sft(Recipe):
    """Nats, summed over completion tokens. Axes: N labelled positions of all rows, V vocabulary."""

    name = "sft"
    description = "supervised fine-tuning with the loss on completions only"

    def encode(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[EncodedRow]:
        from luthierd.trainer.blocks.encoding import encode_rows

        return encode_rows(rows, tokenizer, limit_tokens=self.config.max_seq_length)

    def build(self, model: Any) -> LoraWeights:
        from luthierd.trainer.blocks.lora import inject_lora

        return inject_lora(model, self.config)

    def loss(self, model: Any, examples: Sequence[EncodedRow]) -> torch.Tensor:
        import torch

        from luthierd.trainer.blocks.encoding import collate
        from luthierd.trainer.blocks.model import labelled_logits

        logits_NV, labels_N = labelled_logits(model, collate(examples))
        return torch.nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum")
