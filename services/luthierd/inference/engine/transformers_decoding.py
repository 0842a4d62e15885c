"""Decoding, one token per step: rows of one adapter that began together share a batch and a key-value cache.

Rows are padded on the left; a row that ends leaves the batch and its cache before the next step. Rows of different
adapters never share a forward pass. Axes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from luthierd.inference.domain.completion import Sampling, TokenAlternative, TokenLogprob
from luthierd.inference.engine.engine import EngineDelta
from luthierd.inference.engine.transformers_model import LoraModel

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer decodes an incomplete character to."""


class TokenText:
    """Text of tokens as they arrive. What may still become a stop text or a complete character is held back."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._hold_back = max((len(stop) - 1 for stop in stops), default=0)
        self._ids: list[int] = []
        self._first, self._read = 0, 0  # tokens from `first` on are decoded together; those before `read` were used
        self._text, self._sent = "", 0

    def add(self, token_id: int) -> tuple[str, bool]:
        """The text to send after this token, and whether a stop text ended the answer."""
        self._ids.append(token_id)
        self._take()
        found = [place for stop in self._stops if (place := self._text.find(stop, self._sent)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            return self._send(0), True
        return self._send(self._hold_back), False

    def rest(self) -> str:
        """The text held back for a stop text, after the last token; never an incomplete character (like vLLM)."""
        return self._send(0)

    def of(self, token_id: int) -> str:
        return str(self._tokenizer.decode([token_id]))

    def _take(self) -> None:
        before = self._decode(self._ids[self._first : self._read])
        now = self._decode(self._ids[self._first :])
        if len(now) > len(before) and not now.endswith(REPLACEMENT):
            self._text += now[len(before) :]
            self._first, self._read = self._read, len(self._ids)

    def _send(self, held_back: int) -> str:
        end = max(self._sent, len(self._text) - held_back)
        sent, self._sent = self._text[self._sent : end], end
        return sent

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


@dataclass(eq=False, kw_only=True)
class Row:
    """One answer being generated. `emit` gets each delta; `is_cancelled` may be set from any thread."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    adapter: str | None
    text: TokenText
    emit: Callable[[EngineDelta | BaseException], None]
    choice: int = 0
    is_cancelled: bool = False
    token_ids: list[int] = field(default_factory=list)
    arrived: float = field(default_factory=time.monotonic)
    queue_s: float = 0.0
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        seed = self.sampling.seed
        if seed is not None:  # like vLLM: each choice has its own seed
            seed = (seed + self.choice) % 2**63
        self.generator = torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed)

    def accept(self, logits_V: Tensor, end_ids: frozenset[int]) -> bool:
        """Chooses the next token and emits its text. True if it was the last one."""
        token_id = choose(logits_V, self.sampling, self.generator)
        self.token_ids.append(token_id)
        reason = ""
        if token_id in end_ids:
            text, reason = self.text.rest(), "stop"
        else:
            text, is_stopped = self.text.add(token_id)
            if is_stopped:
                reason = "stop"
            elif len(self.token_ids) >= self.sampling.max_tokens:
                text, reason = text + self.text.rest(), "length"
        count = self.sampling.top_logprob_count
        logprobs = () if count is None else (self._logprob(logits_V, token_id, count),)
        self.emit(
            EngineDelta(
                text=text,
                token_count=1,
                finish_reason=reason,
                choice=self.choice,
                logprobs=logprobs,
                queue_s=self.queue_s,
            )
        )
        return bool(reason)

    def _logprob(self, logits_V: Tensor, token_id: int, count: int) -> TokenLogprob:
        """Of the model itself: before temperature, top_p and top_k."""
        logprobs_V = torch.log_softmax(logits_V.float(), dim=-1)
        best = torch.topk(logprobs_V, count)
        alternatives = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return TokenLogprob(
            token_id=token_id,
            text=self.text.of(token_id),
            logprob=float(logprobs_V[token_id]),
            alternatives=tuple(TokenAlternative(other, self.text.of(other), value) for other, value in alternatives),
        )


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The most likely token at temperature 0; else drawn from the `top_k` most likely, cut to a mass of `top_p`."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = logits_V.float().cpu() / sampling.temperature
    sorted_V, order_V = scaled_V.sort(descending=True, stable=True)
    if sampling.top_k:
        sorted_V = sorted_V[: sampling.top_k]
    probabilities_V = torch.softmax(sorted_V, dim=-1)
    if sampling.top_p < 1:
        probabilities_V[probabilities_V.cumsum(0) - probabilities_V >= sampling.top_p] = 0.0
    return int(order_V[torch.multinomial(probabilities_V, 1, generator=generator)])


class Cohort:
    """Rows of one adapter that began together."""

    def __init__(self, model: LoraModel, rows: Sequence[Row]) -> None:
        self._model, self.rows = model, list(rows)
        self.adapter = rows[0].adapter
        self._cache: Any = None
        self._mask_BT = torch.empty(0)

    def step(self) -> None:
        """One token for each row: the first step computes the prompts, later ones the last token. Ended rows leave."""
        self._leave([not row.is_cancelled for row in self.rows])
        if not self.rows:
            return
        ids_BT = self._prompts() if self._cache is None else self._last_tokens()
        output = self._model.forward(
            self.adapter,
            ids_BT,
            attention_mask=self._mask_BT,
            position_ids=(self._mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV = output.logits[:, -1]
        self._leave([not row.accept(logits_BV[b], self._model.end_ids) for b, row in enumerate(self.rows)])

    def _prompts(self) -> Tensor:
        longest = max(len(row.prompt_ids) for row in self.rows)
        ids_BT = torch.zeros(len(self.rows), longest, dtype=torch.long)
        self._mask_BT = torch.zeros_like(ids_BT)
        for b, row in enumerate(self.rows):
            ids_BT[b, longest - len(row.prompt_ids) :] = torch.tensor(row.prompt_ids)
            self._mask_BT[b, longest - len(row.prompt_ids) :] = 1
        self._mask_BT = self._mask_BT.to(self._model.device)
        self._cache = self._model.new_cache()
        for row in self.rows:
            row.queue_s = time.monotonic() - row.arrived
        return ids_BT.to(self._model.device)

    def _last_tokens(self) -> Tensor:
        ids_BT = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self._model.device)
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(ids_BT)], dim=1)
        return ids_BT

    def _leave(self, stays: list[bool]) -> None:
        if all(stays):
            return
        self.rows = [row for row, stay in zip(self.rows, stays, strict=True) if stay]
        if self._cache is not None and self.rows:
            kept_B = torch.tensor([b for b, stay in enumerate(stays) if stay], device=self._model.device)
            self._cache.batch_select_indices(kept_B)
            self._mask_BT = self._mask_BT[kept_B]
