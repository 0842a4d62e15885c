"""Requests in vLLM's types, and answers out of them. vLLM is imported when an engine runs."""

from __future__ import annotations

import json
from typing import Any

from luthierd.inference.domain.completion import Sampling, Structure, TokenAlternative, TokenLogprob
from luthierd.inference.engine.engine import EngineAdapter
from luthierd.inference.engine.slices import TENANT

MAX_WHITESPACE = 1
"""White space between two parts of JSON. Without a limit small models repeat it: 191 of an answer's 200 characters."""


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
    """The structure in vLLM's type."""
    from vllm.sampling_params import StructuredOutputsParams

    if structure.kind == Structure.CHOICES:
        return StructuredOutputsParams(choice=list(structure.choices))
    if structure.kind == Structure.ARGUMENTS:
        forms = [{"type": "json_schema", "json_schema": json.loads(schema)} for schema in structure.choices]
        tag = {"type": "structural_tag", "format": {"type": "or", "elements": forms}}
        return held(StructuredOutputsParams(structural_tag=json.dumps(tag)))
    name = "json" if structure.kind == Structure.JSON_SCHEMA else structure.kind
    return held(StructuredOutputsParams(**{name: structure.text}))


def held(parameters: Any) -> Any:
    """The same parameters of vLLM, with a limit for white space in JSON. vLLM has no option for it, structural tags do.

    (Its `disable_any_whitespace` allows none at all: `{"a":1}` is not what models are trained to write.)
    """
    if parameters is None or (parameters.json is parameters.structural_tag is None and not parameters.json_object):
        return parameters
    from vllm.sampling_params import StructuredOutputsParams

    if parameters.structural_tag is not None:
        tag = json.loads(parameters.structural_tag)
    else:
        schema = {"type": "object"} if parameters.json_object else parameters.json
        schema = json.loads(schema) if isinstance(schema, str) else schema
        tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    _limit_whitespace(tag)
    return StructuredOutputsParams(structural_tag=json.dumps(tag))


def _limit_whitespace(form: Any) -> None:
    """In every JSON schema of a structural tag; XML styles have another layout."""
    if isinstance(form, dict) and form.get("type") == "json_schema":
        if form.get("style", "json") == "json":
            form["max_whitespace_cnt"] = MAX_WHITESPACE
    elif isinstance(form, dict | list):
        for inner in form.values() if isinstance(form, dict) else form:
            _limit_whitespace(inner)


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
