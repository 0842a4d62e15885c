"""Requests in vLLM's types, and answers out of them. vLLM is imported when an engine runs."""

from __future__ import annotations

from typing import Any

from luthierd.inference.domain.completion import Sampling, Structure, TokenAlternative, TokenLogprob
from luthierd.inference.engine.engine import EngineAdapter
from luthierd.inference.engine.slices import TENANT


def lora_request(adapter: EngineAdapter | None) -> Any:
    """VLLM's adapter; None for the base model."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.engine_name, adapter.number, str(adapter.folder))


def sampling_parameters(sampling: Sampling, tenant: str) -> Any:
    """`tenant`: whose share of a step the prompt takes."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.choice_count,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        stop=list(sampling.stop),
        logprobs=sampling.top_logprob_count,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=structured_outputs(sampling.structure) if sampling.structure else None,
        extra_args={TENANT: tenant},
    )


def structured_outputs(structure: Structure) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if structure.kind == Structure.CHOICES:
        return StructuredOutputsParams(choice=list(structure.choices))
    name = "json" if structure.kind == Structure.JSON_SCHEMA else structure.kind
    return StructuredOutputsParams(**{name: structure.text})


def token_logprobs(completion: Any, top_count: int | None) -> tuple[TokenLogprob, ...]:
    """Of a delta's tokens. vLLM lists the chosen token first, then the most likely ones, which may include it."""
    if top_count is None or completion.logprobs is None:
        return ()
    found = []
    for token_id, place in zip(completion.token_ids, completion.logprobs, strict=True):
        ranked = sorted(place.items(), key=lambda item: item[1].rank)[:top_count]
        found.append(
            TokenLogprob(
                token_id=token_id,
                text=place[token_id].decoded_token or "",
                logprob=float(place[token_id].logprob),
                alternatives=tuple(
                    TokenAlternative(other, one.decoded_token or "", float(one.logprob)) for other, one in ranked
                ),
            )
        )
    return tuple(found)


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
