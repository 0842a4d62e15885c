"""luthier prompt optimise | show | list | cancel | delete"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier import config_files
from luthier.cli.deletion import add_delete, named
from luthier.cli.files import PATH
from luthier.cli.following import follow_new, show_new
from luthier.cli.revisions import adapter_revision, dataset_revision
from luthier.cli.session import Group, Session
from luthier.display import interval, state_of, when
from luthier.evaluator.v1.evaluation_pb2 import MetricValue
from luthier.evaluator.v1.prompt_pb2 import Prompt, PromptSearch

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.group(cls=Group)
def prompt() -> None:
    """Prompts: an instruction with examples, found by a search on the validation split."""


@prompt.command()
@click.argument("target", metavar="ADAPTER_OR_BASE")
@click.option(
    "--dataset", required=True, metavar="REVISION", help="Examples from its train split, scores from validation."
)
@click.option("--id", "prompt_id", metavar="ID", default="", help="Name of the prompt. Default: generated.")
@click.option("--budget", type=click.IntRange(min=10), metavar="N", help="Maximum number of queries. Default 400.")
@click.option("--config", type=PATH, help="YAML of a PromptSearch; options take precedence.")
@click.option("--detach", is_flag=True, help="Do not wait.")
def optimise(
    session: Session,
    *,
    target: str,
    dataset: str,
    prompt_id: str,
    budget: int | None,
    config: pathlib.Path | None,
    detach: bool,
) -> None:
    """Search an instruction and examples for ADAPTER_OR_BASE (`ID/REVISION`, an adapter, or `baseModels/M`).

    The holdout is not read. Use the result with `prompt: NAME` in the --config of `luthier evaluate`.
    """
    session.adopt(target, dataset)
    search = config_files.load(config or {}, PromptSearch)
    if budget is not None:
        search.query_budget = budget

    async def work(client: AsyncClient) -> Prompt:
        rows = await dataset_revision(client, session, dataset)
        is_base = target.startswith("baseModels/")
        created = await client.prompts.create(
            session.parent,
            target=target if is_base else await adapter_revision(client, session, target),
            dataset_revision=rows,
            search=search,
            prompt_id=prompt_id,
        )
        found: Prompt = await follow_new(client, session, created, wait=not detach)
        return found

    found = session.run(work)
    show_new(session, found, waited=not detach, show=lambda: _show(session, found))
    if not detach:
        session.note(f"next: luthier evaluate ... --config FILE.yaml, with `prompt: {found.name}`")


@prompt.command()
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Show a prompt, its score, and the candidates that were tried."""
    resource = session.name("prompt", name)
    session.show(session.run(lambda client: client.prompts.get(resource)), lambda found: _show(session, found))


@prompt.command("list")
def list_(session: Session) -> None:
    """List the tenant's prompts, newest first."""
    session.show_list(
        "prompts",
        lambda client: client.prompts.list(session.parent),
        {
            "prompt": lambda one: one.name,
            "state": state_of,
            "created (UTC)": lambda one: when(one.create_time),
            "#queries": lambda one: one.query_count,
            "#score": lambda one: _score(one.score),
        },
    )


@prompt.command()
@click.argument("name")
def cancel(session: Session, *, name: str) -> None:
    """Ask a search to end."""
    resource = session.name("prompt", name)
    found = session.run(lambda client: client.prompts.cancel(resource))
    session.show(found, lambda found: click.echo(state_of(found)))


def _score(value: MetricValue) -> str:
    shown = value.metric and value.coverage
    return f"{value.metric} {interval(value.mean, value.interval_low, value.interval_high)}" if shown else ""


def _show(session: Session, found: Prompt) -> None:
    session.table(
        ["", "value"],
        [
            ("state", state_of(found)),
            ("queries", found.query_count),
            ("score, unseen validation rows", _score(found.score)),
            ("score of the default prompt, same rows", _score(found.default_score)),
            ("instruction", found.instruction or "(none)"),
            *((f"example {one.row_id}", one.answer) for one in found.examples),
        ],
        title=found.name,
    )
    session.table(
        ["candidate", "#mean", "#rows", "examples"],
        [
            (number, f"{one.mean:.3f}", one.row_count, ", ".join(one.example_row_ids))
            for number, one in enumerate(found.trials)
        ],
        title="candidates; the first is the default prompt",
    )


add_delete(prompt, named("prompt"), "Delete prompt NAME, whose search has ended.")
