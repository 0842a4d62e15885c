"""Our extension of vLLM's workers; vLLM makes its worker class inherit from it (`worker_extension_cls`)."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors

from luthierd.inference.engine.slices import EMBEDDED_AS, SCORED_FROM

MAX_EMBEDDINGS = 256
"""Embeddings that are kept until they are taken; those of callers that left are dropped, oldest first."""


class WorkerExtension:
    """Methods that `collective_rpc` calls in each worker."""

    model_runner: Any
    embeddings: dict[str, list[float]]

    def read_what_is_asked(self) -> None:
        """From now on a request with `SCORED_FROM` gets log-probabilities from that token on, and zeros before it; the
        embedding of one with `EMBEDDED_AS` is kept. Both have `prompt_logprobs`, so that vLLM calls this for them.

        vLLM scores every token of a prompt. That takes a third of a short prompt's time, and every slice of a long one
        reads the weights of the output layer again: 22 ms in a step of 77 (135M model in float32, two cores). vLLM's
        second model runner scores differently and is left unchanged.
        """
        runner, self.embeddings = self.model_runner, {}
        of_all = getattr(runner, "_get_prompt_logprobs_dict", None)
        if of_all is None:
            return

        def of_read(hidden_states: torch.Tensor, token_counts: dict[str, int]) -> dict[str, LogprobsTensors]:
            # In the order of arrival, the same on all ranks: logits are gathered from all of them.
            marks = {name: _marks(runner.requests[name]) for name in runner.num_prompt_logprobs}
            marked = [name for name, mark in marks.items() if SCORED_FROM in mark or EMBEDDED_AS in mark]
            others = {name: count for name, count in token_counts.items() if name not in marked}
            made: dict[str, LogprobsTensors] = dict(of_all(hidden_states, others))
            for name in marked:
                if name not in token_counts:
                    continue
                if (key := marks[name].get(EMBEDDED_AS)) is not None:
                    self._embed(hidden_states, name, token_counts[name], key)
                elif scores := _scores(runner, hidden_states, name, token_counts[name]):
                    made[name] = scores
            return made

        runner._get_prompt_logprobs_dict = of_read

    def _embed(self, hidden_states_TD: torch.Tensor, name: str, token_count: int, key: str) -> None:
        """Adds this step's states to the sum of the prompt's; at the prompt's end, keeps the mean at length 1."""
        runner, request = self.model_runner, self.model_runner.requests[name]
        start, length = request.num_computed_tokens, len(request.prompt_token_ids)
        row = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
        sum_D = hidden_states_TD[row : row + min(token_count, length - start)].float().sum(dim=0)
        request.luthier_sum_D = sum_D + request.luthier_sum_D if start else sum_D  # a preempted one starts again
        if start + token_count >= length:
            del runner.num_prompt_logprobs[name]
            while len(self.embeddings) >= MAX_EMBEDDINGS:
                del self.embeddings[next(iter(self.embeddings))]
            self.embeddings[key] = torch.nn.functional.normalize(request.luthier_sum_D, dim=0).tolist()

    def take_embedding(self, key: str) -> list[float] | None:
        """None: this worker does not have the model's last layer, or has vLLM's second model runner."""
        return self.embeddings.pop(key, None)


def _marks(request: Any) -> dict[str, Any]:
    return request.sampling_params.extra_args or {}


def _scores(runner: Any, hidden_states_TD: torch.Tensor, name: str, token_count: int) -> LogprobsTensors | None:
    """The scores of the prompt, if this step computes its end. The state at a token predicts the next one."""
    request = runner.requests[name]
    token_ids, start = request.prompt_token_ids, request.num_computed_tokens
    scores = request.in_progress_prompt_logprobs_cpu
    if scores is None:
        scores = request.in_progress_prompt_logprobs_cpu = LogprobsTensors.empty_cpu(len(token_ids) - 1, 1)
        for tensor in (scores.logprob_token_ids, scores.logprobs, scores.selected_token_ranks):
            tensor.zero_()  # vLLM decodes every token in it
    first, end = max(start, _marks(request)[SCORED_FROM] - 1), min(start + token_count, len(token_ids) - 1)
    if first < end:
        row = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]]) - start
        logits_TV = runner.model.compute_logits(hidden_states_TD[row + first : row + end])
        targets_T1 = torch.tensor(token_ids[first + 1 : end + 1], device=logits_TV.device)[:, None]
        scores.logprob_token_ids[first:end].copy_(targets_T1)
        scores.logprobs[first:end].copy_(runner.sampler.compute_logprobs(logits_TV).gather(-1, targets_T1))
    if start + token_count < len(token_ids):
        return None
    del runner.num_prompt_logprobs[name]
    request.in_progress_prompt_logprobs_cpu = None
    return scores
