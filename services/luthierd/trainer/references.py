"""Reference log-probabilities: what a server that loads the adapter must reproduce before it may serve it.

For a few prompts: the tuned model's greedy continuation, and the log-probability of each of its tokens, with and
without the adapter. A server that gets the base's numbers has not applied the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

PROMPT_COUNT = 3
COMPLETION_TOKENS = 16


@dataclass(frozen=True)
class Reference:
    """One prompt and its greedy continuation. Log-probabilities in nats, one for each completion token."""

    prompt_ids: list[int]
    completion_ids: list[int]
    base_logprobs: list[float]
    tuned_logprobs: list[float]


def reference_rows(
    model: Any, prompts: Sequence[Sequence[int]], *, without_adapter: Callable[[], AbstractContextManager[None]]
) -> list[Reference]:
    """References for the shortest prompts, since each deploy computes them again; empty ones are left out.

    `without_adapter`: within its block the model is the base model.
    """
    model.eval()
    references = []
    for prompt in sorted(filter(None, prompts), key=len)[:PROMPT_COUNT]:
        prompt_ids = list(prompt)
        completion_ids = greedy(model, prompt_ids)
        tuned = completion_logprobs(model, prompt_ids, completion_ids)
        with without_adapter():
            base = completion_logprobs(model, prompt_ids, completion_ids)
        references.append(Reference(prompt_ids, completion_ids, base, tuned))
    return references


@torch.no_grad()
def greedy(model: Any, prompt_ids: list[int]) -> list[int]:
    """The most likely continuation token by token, at most `COMPLETION_TOKENS`."""
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    completion_ids: list[int] = []
    step_ids, cache = prompt_ids, None
    while len(completion_ids) < COMPLETION_TOKENS:
        output = model(
            input_ids=torch.tensor([step_ids], device=model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        completion_ids.append(int(output.logits[0, -1].argmax()))
        if completion_ids[-1] in ends:
            break
        step_ids, cache = completion_ids[-1:], output.past_key_values
    return completion_ids


@torch.no_grad()
def completion_logprobs(model: Any, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
    """Log-probability of each completion token after the prompt and the tokens before it."""
    token_ids_BT = torch.tensor([prompt_ids + completion_ids], device=model.device)
    logits_TV = model(input_ids=token_ids_BT, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].float()
    logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
    chosen_T = logprobs_TV.gather(1, torch.tensor(completion_ids, device=model.device)[:, None])[:, 0]
    return [float(value) for value in chosen_T]
