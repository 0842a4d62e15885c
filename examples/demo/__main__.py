"""The whole loop, shown in the terminal: `make demo`, or `python -m examples.demo [--output DIR] [--keep]`.

Two tenants, each with the docstrings of one library: curate, train, evaluate, gate, deploy, swap under load. Exit code
0: everything worked and both adapters are proved better. 1: something failed; the output says what.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import pathlib
import shutil
import sys
from typing import Any

from luthier import AsyncClient, profiles, tokens
from luthier.display import arm_name, enum_name
from luthier.errors import LuthierError

from examples.demo import loop, report, swap
from examples.demo.installation import Installation, InstallationError
from examples.demo.story import Story
from examples.demo.tenants import BASE_MODEL, LIBRARIES, Tenant

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

ANNOUNCEMENT = (
    "two tenants: SciPy and scikit-learn, whose docstrings are their data; a base model of 135 million parameters",
    "curate the data and import the model, train an adapter each, compare five ways of answering, ask the gates,",
    "deploy, then swap a revision while 200 requests run; takes 8 to 14 minutes on two cores, Ctrl-C stops everything",
)
QUESTION = (
    "def smooth(values, window=5, mode='reflect')\n"
    "The window slides over the values and each one is replaced by the mean of its neighbours.\n"
    "Parameters\nvalues : array_like\n    The input data.\nwindow : int, optional\n    Length of the window."
)


async def demo(output: pathlib.Path, *, keep: bool) -> int:
    """Runs all steps; returns the exit code."""
    story = Story()
    story.console.print(
        "[bold]Luthier[/bold]: one adapter for each tenant, proved before it is served, swapped while it runs"
    )
    for line in ANNOUNCEMENT:
        story.say(line)
    installation = Installation(output / "home")
    try:
        with story.step("up", "Start four services on loopback"):
            await asyncio.to_thread(installation.up, lambda event: _tell_start(story, event))
        async with contextlib.AsyncExitStack() as stack:
            tenants = [await stack.enter_async_context(_tenant(library, installation, output)) for library in LIBRARIES]
            return await _loop(story, tenants, output)
    finally:
        if keep:
            story.say(f"the services are still running; stop them with: LUTHIER_HOME={installation.home} luthier down")
        else:
            await asyncio.to_thread(installation.down)


async def _loop(story: Story, tenants: list[Tenant], output: pathlib.Path) -> int:
    with story.step("data", "Two tenants with real data: the docstrings of two libraries"):
        for tenant in tenants:
            await loop.make_data(tenant, story)
    title = "Curate: clean, deduplicate, mask personal data, split by file; import a base model in parallel"
    with story.step("curate", title):
        imported, _ = await asyncio.gather(loop.import_base_model(tenants[0]), _curate(story, tenants))
        story.say(imported)
    with story.step("train", "Train one LoRA adapter per tenant, both at the same time"), story.bars() as bars:
        await asyncio.gather(
            *(loop.train(one, bars.add(f"{one.library} r1"), config_file="docstrings-train.yaml") for one in tenants)
        )
    engine = await tenants[0].client.engine.wait_ready()
    title = "Evaluate five ways of answering on the holdout; train a second revision for the swap in parallel"
    with story.step("evaluate", title):
        with story.bars() as bars:
            second = bars.add(f"{tenants[0].library} r2")
            await asyncio.gather(
                loop.train(tenants[0], second, config_file="docstrings-train-second.yaml"),
                *(loop.evaluate(tenant, bars.add(tenant.library), output=output) for tenant in tenants),
            )
        for tenant in tenants:
            _show_evaluation(story, tenant)
    with story.step("gate", "Gate: may these adapters go live?"):
        for tenant in tenants:
            await loop.gate(tenant)
            _show_gate(story, tenant)
    with story.step("deploy", "Deploy both on the running engine, and ask all three models one question"):
        for tenant in tenants:
            await loop.deploy(tenant, 0)
        question = await _ask_all(story, tenants)
    with story.step("swap", "Deploy a second revision under load, then roll back"):
        prompts = await loop.holdout_prompts(tenants[0], 4)
        seen = await swap.swap_under_load(tenants[0], tenants[1], prompts)
        _show_swap(story, seen)
    made = report.build(
        model=await tenants[0].client.base_models.get(BASE_MODEL),
        engine={"version": engine.version, "start_seconds": engine.start_duration.ToTimedelta().total_seconds()},
        tenants=tenants,
        question=question,
        swap=seen,
        step_seconds=story.step_seconds,
    )
    path = ROOT / "demo-report.json"
    path.write_text(json.dumps(made, indent=2) + "\n")
    return _conclude(story, tenants, seen, question, path)


@contextlib.asynccontextmanager
async def _tenant(library: str, installation: Installation, output: pathlib.Path) -> Any:
    """A tenant with a client that uses the tenant's token."""
    profile = profiles.resolve(tenant=library, env=installation.environment)
    assert profile.signing_key is not None
    token = tokens.local_source(profile.signing_key, tenant=library)
    async with AsyncClient(profile.endpoints, token) as client:
        yield Tenant(library=library, client=client, data=output / f"{library}.jsonl")


def _tell_start(story: Story, event: dict[str, Any]) -> None:
    if event["event"] == "serving":
        http = f", OpenAI HTTP on {event['http_address']}" if event["http_address"] else ""
        story.say(f"{event['service']:<10} {event['address']}, metrics on {event['metrics_address']}{http}")


async def _curate(story: Story, tenants: list[Tenant]) -> None:
    with story.bars() as bars:
        await asyncio.gather(*(loop.curate(tenant, bars.add(tenant.library)) for tenant in tenants))
    rows = []
    for tenant in tenants:
        counts = [str(split.row_count) for split in tenant.dataset.splits]
        dropped = ", ".join(f"{one.stage} {one.dropped_count}" for one in tenant.dataset.stages if one.dropped_count)
        rows.append([tenant.library, str(tenant.imported_row_count), *counts, dropped])
    story.table(
        "what is left, and what was dropped", ["tenant", "rows", "train", "validation", "holdout", "dropped by"], rows
    )


def _show_evaluation(story: Story, tenant: Tenant) -> None:
    columns = ["arm", "summary ROUGE-L", "valid JSON", "module right", "p50 ms", "per 1,000"]
    rows = []
    for arm in tenant.evaluation.arms:
        metrics = {value.metric: value for value in arm.metrics}
        shown = [
            f"{m.mean:.3f} [{m.interval_low:.3f}, {m.interval_high:.3f}]" if (m := metrics.get(key)) else "-"
            for key in ("rouge_l", "json_valid", "label_accuracy")
        ]
        rows.append([arm_name(arm.arm), *shown, f"{arm.latency_ms_p50:.0f}", f"{arm.cost_per_1000:.4f}"])
    story.table(f"{tenant.library}: {tenant.evaluation.arms[0].row_count} holdout rows, 95 % intervals", columns, rows)
    for metric, reference in report.WINS:
        d = report.difference(tenant, metric, reference)
        story.say(
            f"adapter - {reference}, {metric}: {d.difference:+.3f} [{d.interval_low:+.3f}, {d.interval_high:+.3f}]"
        )


def _show_gate(story: Story, tenant: Tenant) -> None:
    outcome = enum_name(tenant.decision, "outcome")
    story.say(f"{tenant.library}, verdict: [bold]{tenant.verdict.headline}[/bold]")
    story.say(f"{tenant.library}: [bold]{outcome}[/bold] (exit code {report.EXIT_CODES[outcome]})")
    for condition in tenant.decision.conditions:
        story.say(f"  {condition.explanation}")


async def _ask_all(story: Story, tenants: list[Tenant]) -> dict[str, Any]:
    system = (await loop.holdout_prompts(tenants[0], 1))[0][0]
    messages = [system, {"role": "user", "content": QUESTION}]
    targets = {"base": BASE_MODEL} | {tenant.library: tenant.deployment_name for tenant in tenants}
    clients = [tenants[0].client, *(tenant.client for tenant in tenants)]
    answers = await asyncio.gather(
        *(
            client.inference.chat(target, messages, max_tokens=64)
            for client, target in zip(clients, targets.values(), strict=True)
        )
    )
    texts = {name: answer.text for name, answer in zip(targets, answers, strict=True)}
    for name, answer in zip(targets, answers, strict=True):
        story.say(f"{name:<8} ({answer.origin.loaded_adapter[:24]}) {' '.join(answer.text.split())[:150]}")
    return {"prompt": QUESTION, "answers": texts, "distinct_count": len(set(texts.values()))}


def _show_swap(story: Story, seen: swap.SwapReport) -> None:
    failed, mixed = len(seen.failed), len(seen.mixed)
    story.say(f"{seen.request_count} requests around a deploy and a rollback: {failed} failed, {mixed} mixed")
    story.say(f"{seen.scored_count} texts depended on the batch; log-probabilities showed whose they are")
    story.say(f"deploy {seen.deploy_seconds:.2f} s -> {seen.live_after_deploy}")
    story.say(f"rollback {seen.rollback_seconds:.3f} s -> {seen.live_after_rollback}")
    for line in [*seen.failed[:3], *seen.mixed[:3]]:
        story.say(f"[red]{line}[/red]")


def _conclude(
    story: Story, tenants: list[Tenant], seen: swap.SwapReport, question: dict[str, Any], path: pathlib.Path
) -> int:
    """The final table, failed expectations, and where to look next."""
    rows = [[key, f"{seconds:.1f}"] for key, seconds in story.step_seconds.items()]
    story.table("\nseconds per step", ["step", "s"], [*rows, ["total", f"{sum(story.step_seconds.values()):.1f}"]])
    short = [line for tenant in tenants for line in report.unproved_wins(tenant)]
    short += [f"{len(seen.failed)} requests failed during the swap"] if seen.failed else []
    short += [f"{len(seen.mixed)} answers were mixed during the swap"] if seen.mixed else []
    if question["distinct_count"] < len(question["answers"]):
        short.append("base and tenants did not answer differently")
    story.console.print("\nWhere to look next")
    story.say(f"{path.name}: all numbers; docs/demo-report.md describes the format")
    for tenant in tenants:
        story.say(f"{tenant.report}: the evaluation of {tenant.library}, open it in a browser")
    story.say("README.md: the same loop with the command line, the SDK, grpcurl and an OpenAI client")
    for line in short:
        story.console.print(f"[bold red]not proved[/bold red] {line}")
    return 1 if short else 0


def main() -> int:
    """Parses the arguments and runs the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output", type=pathlib.Path, default=ROOT / "demo-out", help="folder for data, services and reports"
    )
    parser.add_argument("--keep", action="store_true", help="leave the services running at the end")
    options = parser.parse_args()
    output: pathlib.Path = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    try:
        return asyncio.run(demo(output, keep=options.keep))
    except (LuthierError, InstallationError) as error:
        print(f"\nthe demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the services are stopped. `make demo` starts over", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
