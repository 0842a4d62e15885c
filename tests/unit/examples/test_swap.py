"""Which answers under load the demo accepts, with a scripted engine."""

from __future__ import annotations

from typing import Any

import pytest
from luthier.inference.v1.inference_service_pb2 import ChatResponse, Origin, ScoreResponse, TokenIds, TokenLogprob

from examples.demo import swap

PROMPT = [{"role": "user", "content": "What is it?"}]
LOGPROBS = {"r1": [-0.5, -0.7], "r2": [-0.9, -1.2], "base": [-2.0, -3.0]}


class Engine:
    """Stands for a client: answers `alone` by weights, and scores any tokens by `LOGPROBS`."""

    def __init__(self, alone: dict[str, str]) -> None:
        self.inference, self.alone, self.scored = self, alone, []

    async def chat(self, target: str, messages: list[Any], **sampling: Any) -> ChatResponse:
        return ChatResponse(text=self.alone[target])

    async def score(self, target: str, prompt: list[Any], completion: TokenIds) -> ScoreResponse:
        self.scored.append((target, tuple(completion.ids)))
        return ScoreResponse(tokens=[TokenLogprob(logprob=value) for value in LOGPROBS[target]])


def answer(text: str, logprobs: list[float]) -> ChatResponse:
    tokens = [TokenLogprob(token_id=number, logprob=value) for number, value in enumerate(logprobs)]
    return ChatResponse(text=text, origin=Origin(adapter_revision="r1"), logprobs=tokens)


async def checked(*answers: ChatResponse, weights: str = "r1") -> tuple[swap.SwapReport, Engine]:
    engine: Any = Engine({"r1": "A state space.", "r2": "Spaces.", "base": "def"})
    route = swap.Route(engine, "deployment", frozenset({"r1", "r2"}))
    report = swap.SwapReport()
    seen = [swap.Seen(route, 0, weights, one) for one in answers]
    await swap._check(seen, [PROMPT], dict.fromkeys(LOGPROBS, engine), report)
    return report, engine


async def test_the_text_that_the_weights_give_alone_needs_no_score():
    report, engine = await checked(answer("A state space.", [-0.5, -0.7]))
    assert (report.mixed, report.scored_count, engine.scored) == ([], 0, [])


async def test_another_text_is_right_if_its_log_probabilities_are_those_of_the_weights_it_names():
    one = answer("The state space.", [-0.52, -0.69])
    report, engine = await checked(one, one)
    assert (report.mixed, report.scored_count) == ([], 2)
    assert engine.scored == [("r1", (0, 1)), ("r2", (0, 1)), ("base", (0, 1))]  # equal answers are scored once


@pytest.mark.parametrize("logprobs", [[-0.9, -1.2], [-0.5, -1.2], [-1.3, -0.2], []])
async def test_another_text_is_mixed_if_its_log_probabilities_are_not(logprobs):
    report, _ = await checked(answer("Spaces.", logprobs))
    assert len(report.mixed) == report.scored_count == 1
    assert "deployment answered as r1: 'Spaces.'" in report.mixed[0]


async def test_weights_that_the_deployment_never_had_are_mixed_whatever_they_say():
    report, engine = await checked(answer("def", [-2.0, -3.0]), weights="base")
    assert (len(report.mixed), report.scored_count, engine.scored) == (1, 0, [])
