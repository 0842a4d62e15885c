"""lm-evaluation-harness against the real engine: its own API models over HTTP, and our suite over gRPC, agree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from luthier import AsyncClient, Endpoints
from luthierd.evaluator.api.peers import InferenceModel, SdkLikelihoods
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.suites import LmEvalConfig
from luthierd.evaluator.models.generate import Generator, SystemClock
from luthierd.evaluator.suites.lm_harness import SHIPPED, load_tasks
from luthierd.evaluator.suites.lm_suite import LmSuite
from luthierd.evaluator.suites.run import PlainPlan, generate_answers
from support.inference_server import BASE, InferenceServer

pytestmark = pytest.mark.e2e

COUNT, MAX_TOKENS = 5, 8
CLOZE, INSTRUCTIONS = TASKS = ("luthier_cloze", "luthier_instructions")
DEPLOYMENT = "tenants/examiner/deployments/examined"


async def by_lm_eval(
    server: InferenceServer, kind: str, model: str, task: str, *, tenant: str = "examiner"
) -> list[Mapping[str, Any]]:
    """The samples of lm-eval's own run, in order. `kind`: of its API models."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    path = "chat/completions" if kind == "local-chat-completions" else "completions"
    found = await asyncio.to_thread(
        simple_evaluate,
        model=kind,
        model_args={
            "model": model,
            "base_url": f"http://127.0.0.1:{server.http_port}/v1/{path}",
            "header": {"Authorization": f"Bearer {server.token(tenant)}"},
            "tokenizer_backend": "huggingface" if kind == "local-completions" else None,
            "tokenizer": str(server.folder / "made/base"),
            "num_concurrent": 4,
            "max_retries": 1,
        },
        tasks=[task],
        limit=COUNT,
        gen_kwargs={"max_gen_toks": MAX_TOKENS} if kind == "local-chat-completions" else None,
        apply_chat_template=kind == "local-chat-completions",
        bootstrap_iters=0,
        log_samples=True,
        task_manager=TaskManager(include_path=[str(SHIPPED)], include_defaults=False),
    )
    return sorted(found["samples"][task], key=lambda sample: sample["doc_id"])


class Journal:
    """Answers in memory."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def answers(self) -> list[Any]:
        return self.kept

    async def add(self, answer: Any, *, content_key: str | None = None) -> None:
        self.kept.append(answer)


async def test_the_suite_gives_each_item_what_lm_evals_api_models_get_over_http_for_base_and_adapter(
    server: InferenceServer,
) -> None:
    samples = Journal()
    targets = {Arm.BASE: BASE, Arm.ADAPTER: DEPLOYMENT}
    tasks = await asyncio.to_thread(load_tasks, LmEvalConfig(TASKS, COUNT), [SHIPPED])
    suite = LmSuite(tasks=tasks, seed=0, n_resamples=200)
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("examiner")) as client:
        revision = server.add_revision("examiner", "r1", seed=72, adapter="examined")
        await client.deployments.deploy(DEPLOYMENT, adapter_revision=revision)
        chat_model = InferenceModel(client, targets.__getitem__, timeout_s=60)
        generator = Generator(chat_model=chat_model, samples=samples, clock=SystemClock(), max_tokens=MAX_TOKENS)
        likelihoods = SdkLikelihoods(client, targets.__getitem__, timeout_s=60)
        answers = await generate_answers(
            suite, list(targets), PlainPlan(), generator=generator, samples=samples, likelihoods=likelihoods
        )
    assert all(answer.error is None for given in answers.values() for answer in given.values())
    said = {
        arm: {row_id.removeprefix("suite:lm_eval/"): answer.text for row_id, answer in given.items()}
        for arm, given in answers.items()
    }
    for arm, model in targets.items():
        for sample in await by_lm_eval(server, "local-completions", model, CLOZE):
            theirs = [float(nats) for ((nats, _),) in sample["resps"]]
            ours = [float(said[arm][f"{CLOZE}/{sample['doc_id']}/{number}"]) for number in range(len(theirs))]
            assert ours == pytest.approx(theirs, abs=1e-2)
        for sample in await by_lm_eval(server, "local-chat-completions", model, INSTRUCTIONS):
            assert [[said[arm][f"{INSTRUCTIONS}/{sample['doc_id']}/0"]]] == sample["resps"]
    assert said[Arm.BASE] != said[Arm.ADAPTER]
    assert set((await suite.score(answers)).slices) == {f"lm_eval:{task}" for task in TASKS}


async def test_lm_eval_with_another_tenants_token_is_refused(server: InferenceServer) -> None:
    with pytest.raises(Exception, match="403"):
        await by_lm_eval(server, "local-completions", DEPLOYMENT, CLOZE, tenant="nobody")
