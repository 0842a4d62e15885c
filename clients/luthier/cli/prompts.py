"""luthier prompt optimise | show | list | cancel"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.evaluation_pb2 import MetricValue
    from luthier.evaluator.v1.prompt_pb2 import Prompt


@click.group(cls=Group)
def prompt() -> None:
    """Prompts: an instruction with examples, searched on the validation split."""


@prompt.command()
@click.argument("target", metavar="ADAPTER_OR_BASE")
@click.option(
    "--dataset",
    required=True,
    metavar="REVISION",
    help="Examples from its training split, judged on its validation split.",
)
@click.option("--id", "prompt_id", metavar="ID", default="", help="Name of the prompt; default: one is made.")
@click.option("--budget", type=click.IntRange(min=10), metavar="N", help="Most queries. Default 400.")
@click.option("--config", type=click.Path(path_type=pathlib.Path), help="YAML of a PromptSearch; options win.")
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

    The holdout is not read. Use what is found with `prompt: NAME` in the --config of `luthier evaluate`.
    """
    from luthier import config_files
    from luthier.cli.adapters import latest_revision
    from luthier.cli.datasets import latest_revision as latest_dataset_revision
    from luthier.cli.datasets import revision_name
    from luthier.cli.watching import follow
    from luthier.display import to_document
    from luthier.evaluator.v1.prompt_pb2 import PromptSearch

    session.adopt(target, dataset)
    search = config_files.load(config or {}, PromptSearch)
    if budget is not None:
        search.query_budget = budget

    async def work(client: AsyncClient) -> Prompt:
        rows = await latest_dataset_revision(client, revision_name(session, dataset))
        model = target if target.startswith("baseModels/") else await latest_revision(client, session, target)
        created = await client.prompts.create(
            session.parent, target=model, dataset_revision=rows, search=search, prompt_id=prompt_id
        )
        session.following = created.name
        if detach:
            return created
        session.note(created.name)
        if session.as_json:
            session.emit({"event": "created"} | to_document(created))
        searched: Prompt = await follow(client, session, created.name)
        return searched

    found = session.run(work)
    if session.as_json:
        session.emit(({} if detach else {"event": "result"}) | to_document(found))
        return
    click.echo(found.name)
    if not detach:
        _show(session, found)
        session.note(f"next: luthier evaluate ... --config FILE.yaml, with `prompt: {found.name}`")


@prompt.command()
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Show a prompt, its figure, and what became of the candidates."""
    from luthier.display import to_document

    resource = session.name("prompt", name)
    found = session.run(lambda client: client.prompts.get(resource))
    if session.as_json:
        session.emit(to_document(found))
    else:
        _show(session, found)


@prompt.command("list")
def list_(session: Session) -> None:
    """List the tenant's prompts, newest first."""
    from luthier.display import state_of, to_document, when

    async def work(client: AsyncClient) -> list[Prompt]:
        return [found async for found in client.prompts.list(session.parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"prompts": [to_document(one) for one in found]})
        return
    session.table(
        ["prompt", "state", "created", "#queries", "#score"],
        [(one.name, state_of(one), when(one.create_time), one.query_count, _figure(one, one.score)) for one in found],
    )


@prompt.command()
@click.argument("name")
def cancel(session: Session, *, name: str) -> None:
    """Ask a search to end."""
    from luthier.display import state_of, to_document

    resource = session.name("prompt", name)
    found = session.run(lambda client: client.prompts.cancel(resource))
    if session.as_json:
        session.emit(to_document(found))
    else:
        click.echo(state_of(found))


def _figure(found: Prompt, value: MetricValue) -> str:
    from luthier.display import interval

    shown = value.metric and value.coverage
    return f"{value.metric} {interval(value.mean, value.interval_low, value.interval_high)}" if shown else ""


def _show(session: Session, found: Prompt) -> None:
    from luthier.display import state_of

    session.table(
        ["", "value"],
        [
            ("state", state_of(found)),
            ("queries", found.query_count),
            ("score, unseen validation rows", _figure(found, found.score)),
            ("the default prompt's, same rows", _figure(found, found.default_score)),
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
