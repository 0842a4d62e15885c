"""Answers as they arrive, and those that another evaluation paid for: found by full content, for the same tenant only,
and never timed.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncIterator

import luthierd.evaluator
import pytest
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, Results
from luthierd.evaluator.domain.rows import AnswerError
from luthierd.evaluator.models.sample_store import SampleCache, SqlSampleLookup, SqlSampleStore
from luthierd.evaluator.run.evaluation import EvaluationRun
from luthierd.storage.database import Database
from support.evaluator_material import FakePeers, MemoryBlobs, ScriptedModel, adapter_knows, answer, quick_run

CONFIG = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), resample_count=200, use_cache=True)
ANSWER = dataclasses.replace(answer(Arm.RAG, "r1", "été\n{}"), shown_row_ids=("a", "b"))
ENGINE = "vllm 0.32.0 (cpu, float32)"


@pytest.fixture
async def database(tmp_path: pathlib.Path) -> AsyncIterator[Database]:
    found = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await found.migrate(pathlib.Path(luthierd.evaluator.__file__).parent / "versions")
    yield found
    await found.close()


def prepared(
    database: Database,
    name: str,
    chat_model: ScriptedModel,
    *,
    config: EvaluationConfig = CONFIG,
    engine: str = ENGINE,
) -> EvaluationRun:
    blobs = MemoryBlobs()

    async def version() -> str:
        return engine

    run = quick_run(name, FakePeers(blobs), blobs, config=config, chat_model=chat_model)
    samples = SqlSampleStore(database, name)
    cache = SampleCache(SqlSampleLookup(database, name.split("/")[1]), run.inputs, config, version)
    return dataclasses.replace(
        run, samples=samples, generator=dataclasses.replace(run.generator, samples=samples, cache=cache)
    )


async def evaluated(database: Database, name: str, **options: object) -> tuple[Results, int]:
    """The results, and how many queries were asked for them."""
    chat_model = ScriptedModel(adapter_knows)
    return await prepared(database, name, chat_model, **options).run(), len(chat_model.calls)  # type: ignore[arg-type]


async def test_a_second_evaluation_asks_nothing_and_times_nothing(database: Database) -> None:
    first, asked = await evaluated(database, "tenants/acme/evaluations/e1")
    assert asked == 48
    second, asked_again = await evaluated(database, "tenants/acme/evaluations/e2")
    assert asked_again == 0
    assert second.overall == first.overall
    assert [cost.cached_count for cost in second.costs] == [24, 24]
    assert [cost.latency_ms_p50 for cost in second.costs] == [0.0, 0.0]
    assert [cost.cost_per_1000_answers for cost in second.costs] == [0.0, 0.0]
    assert [cost.completion_tokens_mean for cost in second.costs] == [
        cost.completion_tokens_mean for cost in first.costs
    ]


async def test_another_tenant_pays_for_its_own(database: Database) -> None:
    await evaluated(database, "tenants/acme/evaluations/e1")
    _, asked = await evaluated(database, "tenants/other/evaluations/e1")
    assert asked == 48


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": "vllm 0.33.0 (cpu, float32)"},
        {"config": dataclasses.replace(CONFIG, max_answer_tokens=5)},
        {"config": dataclasses.replace(CONFIG, use_cache=False)},
        {"engine": ""},
    ],
)
async def test_whatever_could_change_an_answer_is_asked_anew(database: Database, changed: dict[str, object]) -> None:
    await evaluated(database, "tenants/acme/evaluations/e1")
    _, asked = await evaluated(database, "tenants/acme/evaluations/e2", **changed)
    assert asked == 48


async def test_an_arm_that_asks_the_same_takes_the_answer_of_another_arm(database: Database) -> None:
    await evaluated(database, "tenants/acme/evaluations/e1")
    config = dataclasses.replace(CONFIG, arms=(Arm.BASE, Arm.ADAPTER, Arm.ADAPTER_RAG), shot_count=0)
    results, asked = await evaluated(database, "tenants/acme/evaluations/e2", config=config)
    assert asked == 0
    assert {cost.arm: cost.cached_count for cost in results.costs}[Arm.ADAPTER_RAG] == 24


async def test_timings_of_a_partly_reused_arm_are_of_the_new_answers_only(database: Database) -> None:
    small = dataclasses.replace(CONFIG, row_limit=8)
    await evaluated(database, "tenants/acme/evaluations/e1", config=small)
    results, asked = await evaluated(database, "tenants/acme/evaluations/e2")
    assert asked == 32
    assert [cost.cached_count for cost in results.costs] == [8, 8]
    assert [cost.answered_count for cost in results.costs] == [24, 24]


async def test_an_answer_comes_back_as_it_was(tables: Database) -> None:
    samples = SqlSampleStore(tables, "tenants/t/evaluations/e")
    failed = dataclasses.replace(ANSWER, row_id="r2", text="", error=AnswerError("PROMPT_TOO_LONG", "too long"))
    await samples.add(ANSWER)
    await samples.add(failed)
    assert set(await samples.answers()) == {ANSWER, failed}


async def test_the_first_answer_to_a_query_stays(tables: Database) -> None:
    samples = SqlSampleStore(tables, "tenants/t/evaluations/e")
    await samples.add(ANSWER)
    await samples.add(dataclasses.replace(ANSWER, text="another worker's"))
    assert await samples.answers() == [ANSWER]


async def test_evaluations_do_not_share_answers(tables: Database) -> None:
    await SqlSampleStore(tables, "tenants/t/evaluations/one").add(ANSWER)
    assert await SqlSampleStore(tables, "tenants/t/evaluations/two").answers() == []
