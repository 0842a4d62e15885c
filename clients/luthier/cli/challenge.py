"""luthier challenge generate | upload | list | show | delete"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.challenge_files import accepted, row_of
from luthier.cli.deletion import add_delete, named
from luthier.cli.files import EXISTING_FILE, NEW_FILE, whole_file
from luthier.cli.revisions import dataset_revision
from luthier.cli.session import Group, Session
from luthier.display import when
from luthier.errors import InvalidArgumentError

if TYPE_CHECKING:
    from luthier.client import AsyncClient


@click.group(cls=Group)
def challenge() -> None:
    """Challenge cases (vague, emotional, incomplete, hostile, out of scope): generated here, reviewed by people."""


@challenge.command()
@click.option("--dataset", required=True, metavar="REVISION", help="The rows that cases are made from.")
@click.option("--split", type=click.Choice(["holdout", "validation"]), help="Which rows. Default holdout.")
@click.option("--count", type=click.IntRange(1, 100), metavar="N", help="Cases of each kind. Default 20.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for choosing rows and templates.")
@click.option(
    "--variants", metavar="MODEL", help="Also add a rewording of every case by this base model or deployment."
)
@click.option("--output", "-o", required=True, type=NEW_FILE, help="JSONL file to write.")
def generate(
    session: Session,
    *,
    dataset: str,
    split: str | None,
    count: int | None,
    seed: int,
    variants: str | None,
    output: pathlib.Path,
) -> None:
    """Write proposals to a JSONL file. Edit the rows and set "review" to "accepted" or "rejected", then upload it."""
    session.adopt(dataset)

    async def work(client: AsyncClient) -> list[dict[str, Any]]:
        revision = await dataset_revision(client, session, dataset)
        cases = await client.challenge_sets.generate(revision, split=split or "", per_kind_count=count, seed=seed)
        rows = [row_of(case, review="proposed") for case in cases]
        return rows + (await _reworded(client, rows, variants) if variants else [])

    rows = session.run(work)
    with whole_file(output) as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    if session.as_json:
        session.emit({"file": str(output), "case_count": len(rows)})
        return
    click.echo(str(output))
    session.note(f'{len(rows):,} proposals; set "review" of each row, then: luthier challenge upload {output}')


async def _reworded(client: AsyncClient, rows: Sequence[Mapping[str, Any]], target: str) -> list[dict[str, Any]]:
    """Each case again in a model's words, except those that the model cannot reword."""
    found = []
    for row in rows:
        *before, last = row["turns"]
        prompt = f"Say the following request in other words. Keep its tone and what it asks for.\n\n{last['content']}"
        try:
            text = (await client.inference.chat(target, prompt, max_tokens=256)).text.strip()
        except InvalidArgumentError:
            continue  # longer than the model's window
        if text and text != last["content"]:
            turns = [*before, {"role": "user", "content": text}]
            case_id, origin = f"{row['case_id']}-reworded", f"by {target}"[:200]
            found.append({**row, "case_id": case_id, "turns": turns, "origin": origin})
    return found


@challenge.command()
@click.argument("file", type=EXISTING_FILE)
@click.option("--accept-proposed", is_flag=True, help="Also take rows that nobody has reviewed.")
def upload(session: Session, *, file: pathlib.Path, accept_proposed: bool) -> None:
    """Store the accepted rows of FILE as an immutable set; the token's subject is recorded as its reviewer."""
    cases = accepted(file, accept_proposed=accept_proposed)
    found = session.run(lambda client: client.challenge_sets.create(session.parent, cases))
    session.show(found, lambda found: click.echo(found.name))
    session.note(f"{found.case_count:,} cases; next: luthier evaluate ADAPTER --challenge {found.name}")


@challenge.command("list")
def list_(session: Session) -> None:
    """List the tenant's sets."""
    session.show_list(
        "challenge_sets",
        lambda client: client.challenge_sets.list(session.parent),
        {
            "name": lambda one: one.name,
            "#cases": lambda one: one.case_count,
            "reviewer": lambda one: one.reviewer,
            "uploaded (UTC)": lambda one: when(one.create_time),
        },
    )


@challenge.command()
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Print the cases of a set as JSONL, in the form that `upload` takes."""
    resource = session.name("challenge_set", name)
    for case in session.read(lambda client: client.challenge_sets.list_cases(resource, page_size=200)):
        session.emit(row_of(case, review="accepted"))


add_delete(challenge, named("challenge_set"), "Delete challenge set NAME.")
