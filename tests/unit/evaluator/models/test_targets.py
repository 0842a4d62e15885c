"""Who answers each arm, what must be named for it, and what the endpoint arm costs."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api import config_wire
from luthierd.evaluator.domain.arm import DEFAULT_ARMS, Arm
from luthierd.evaluator.domain.evaluation import EndpointTarget, EvaluationConfig, EvaluationInputs
from luthierd.evaluator.domain.retrieval import Retriever
from luthierd.evaluator.models.arms import Query, target_of
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint, EndpointArmModel
from luthierd.evaluator.models.costs import TokenPrice, arm_costs
from luthierd.evaluator.models.endpoints import Endpoint
from luthierd.evaluator.models.generate import Generator, SystemClock
from luthierd.evaluator.run.config_rules import check_config
from support.evaluator_material import MemorySampleStore, ScriptedModel, adapter_knows, answer, row
from support.judge_server import judge_server

INPUTS = EvaluationInputs(
    adapter_revision="tenants/acme/adapters/a/revisions/r1",
    adapter_sha256="a" * 64,
    base_model="baseModels/m",
    base_model_sha256="b" * 64,
    dataset_revision="tenants/acme/datasets/d/revisions/r1",
    dataset_sha256="c" * 64,
    rows_sha256="d" * 64,
    train_sha256="e" * 64,
    trained_sha256="e" * 64,
    raft_sha256="f" * 64,
    challenger_sha256="0" * 64,
)
CONFIG = EvaluationConfig(
    arms=tuple(Arm),
    raft_adapter_revision="tenants/acme/adapters/raft/revisions/r1",
    challenger_revision="tenants/acme/adapters/b/revisions/r7",
    endpoint=EndpointTarget("partner", "large-3"),
)


def test_each_arm_has_its_own_answerer_and_an_endpoint_s_weights_are_vouched_for_by_nobody() -> None:
    found = {arm: target_of(arm, INPUTS, CONFIG) for arm in Arm}
    assert {found[arm].name for arm in (Arm.BASE, Arm.PROMPTED, Arm.RAG)} == {"baseModels/m"}
    assert found[Arm.ADAPTER] == found[Arm.ADAPTER_RAG]
    assert (found[Arm.ADAPTER_RAFT].name, found[Arm.ADAPTER_RAFT].sha256) == (CONFIG.raft_adapter_revision, "f" * 64)
    assert (found[Arm.CHALLENGER].name, found[Arm.CHALLENGER].sha256) == (CONFIG.challenger_revision, "0" * 64)
    assert (found[Arm.ENDPOINT].name, found[Arm.ENDPOINT].sha256) == ("endpoints/partner/large-3", "")


def test_what_is_named_survives_the_wire() -> None:
    config = dataclasses.replace(
        CONFIG,
        passages="tenants/acme/datasets/d/revisions/r1",
        passage_characters=300,
        retrievers=(Retriever.FUSED, Retriever.BM25),
        prompt="tenants/acme/prompts/p1",
    )
    assert config_wire.config_from_proto(config_wire.config_to_proto(config)) == config


def test_without_being_named_only_the_five_arms_run() -> None:
    assert EvaluationConfig().arms == DEFAULT_ARMS
    check_config(EvaluationConfig())
    check_config(CONFIG)


@pytest.mark.parametrize("field", ["raft_adapter_revision", "challenger_revision", "endpoint"])
def test_an_arm_without_what_it_asks_is_refused_and_so_is_the_reverse(field: str) -> None:
    empty = EvaluationConfig().__getattribute__(field)
    with pytest.raises(InvalidArgumentError, match="needs it") as missing:
        check_config(dataclasses.replace(CONFIG, **{field: empty}))
    assert missing.value.metadata["field"] == f"evaluation.config.{field}"
    with pytest.raises(InvalidArgumentError, match="not among the arms"):
        check_config(dataclasses.replace(CONFIG, arms=DEFAULT_ARMS))


async def test_the_endpoint_arm_asks_the_endpoint_greedily_and_no_more_at_a_time_than_it_allows() -> None:
    inference, samples = ScriptedModel(adapter_knows), MemorySampleStore()
    with judge_server(lambda body: f"to {body['messages'][-1]['content'][-2:]}") as house:
        chat = ChatEndpoint(Endpoint(name="partner", url=house.url, model="small", key="k3y"))
        chat_model = EndpointArmModel(inference, chat, model="large-3")
        queries = [Query(arm=Arm.ENDPOINT, row=row(number), messages=row(number).prompt) for number in range(10, 18)]
        queries.append(Query(arm=Arm.ADAPTER, row=row(3), messages=row(3).prompt))

        async def progress(done: int, needed: int, arm: Arm | None) -> None:
            """Nobody watches."""

        await Generator(
            chat_model=chat_model, samples=samples, clock=SystemClock(), concurrency=8, endpoint_concurrency=2
        ).generate_all(queries, progress=progress)
        await chat.close()
    assert house.most_running <= 2
    assert {(asked["model"], asked["temperature"]) for asked in house.asked} == {("large-3", 0.0)}
    assert len(inference.calls) == 1
    found = samples.kept[Arm.ENDPOINT, "holdout-12"]
    assert (found.text, found.prompt_tokens, found.loaded_adapter) == ("to 12", 10, "large-3")
    assert "k3y" not in str(samples.kept)


async def test_a_query_that_the_endpoint_rejects_is_a_failed_row() -> None:
    samples = MemorySampleStore()
    with judge_server(lambda body: 413) as house:
        chat = ChatEndpoint(Endpoint(name="partner", url=house.url, model="small"))
        chat_model = EndpointArmModel(ScriptedModel(adapter_knows), chat, model="")
        done = asyncio.Event()

        async def progress(count: int, needed: int, arm: Arm | None) -> None:
            if count == needed:
                done.set()

        query = Query(arm=Arm.ENDPOINT, row=row(1), messages=row(1).prompt)
        await Generator(chat_model=chat_model, samples=samples, clock=SystemClock()).generate_all(
            [query], progress=progress
        )
        await chat.close()
    assert done.is_set()
    [failed] = samples.kept.values()
    assert failed.error is not None
    assert failed.error.reason == "ENDPOINT_REJECTED"


def test_an_endpoint_costs_its_tokens_and_no_machine_of_ours() -> None:
    answers = [answer(Arm.ENDPOINT, str(number), "x") for number in range(4)]  # 100 tokens read, 20 written, each
    price = TokenPrice(prompt_per_million=2.0, completion_per_million=10.0)
    [cost] = arm_costs({Arm.ENDPOINT: answers}, machine_price_per_hour=1000.0, token_prices={Arm.ENDPOINT: price})
    assert cost.cost_per_1000_answers == pytest.approx(1000 * (100 * 2 + 20 * 10) / 1e6)
