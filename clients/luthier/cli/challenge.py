"""luthier challenge generate | upload | list | show"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.evaluator.v1.challenge_set_pb2 import ChallengeCase, ChallengeSet

REVIEWS = ("proposed", "accepted", "rejected")


@click.group(cls=Group)
def challenge() -> None:
    """Challenge cases (vague, emotional, incomplete, hostile, out of scope): proposed here, reviewed by people."""


@challenge.command()
@click.option("--dataset", required=True, metavar="REVISION", help="The rows that cases are made of.")
@click.option("--split", type=click.Choice(["holdout", "validation"]), help="Which rows. Default holdout.")
@click.option("--count", type=click.IntRange(1, 100), metavar="N", help="Cases of each kind. Default 20.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of rows and templates.")
@click.option("--variants", metavar="MODEL", help="Let this base model or deployment reword every case once more.")
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False, path_type=pathlib.Path), help="JSONL.")
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
    from luthier.cli.datasets import latest_revision, revision_name

    session.adopt(dataset)

    async def work(client: AsyncClient) -> list[dict[str, Any]]:
        revision = await latest_revision(client, revision_name(session, dataset))
        cases = await client.challenge_sets.generate(revision, split=split or "", per_kind_count=count, seed=seed)
        rows = [row_of(case, review="proposed") for case in cases]
        return rows + (await _reworded(client, rows, variants) if variants else [])

    rows = session.run(work)
    _write(output, rows)
    if session.as_json:
        session.emit({"file": str(output), "case_count": len(rows)})
        return
    click.echo(str(output))
    session.note(f'{len(rows):,} proposals; set "review" of each row, then: luthier challenge upload {output}')


async def _reworded(client: AsyncClient, rows: Sequence[Mapping[str, Any]], target: str) -> list[dict[str, Any]]:
    """Each case once more in a model's words; a case that the model cannot reword is left out."""
    from luthier.errors import InvalidArgumentError

    found = []
    for row in rows:
        *before, last = row["turns"]
        ask = f"Say the following request in other words. Keep its tone and what it asks for.\n\n{last['content']}"
        try:
            said = (await client.inference.chat(target, ask, max_tokens=256)).text.strip()
        except InvalidArgumentError:
            continue  # longer than the model's window
        if said and said != last["content"]:
            turns = [*before, {"role": "user", "content": said}]
            found.append(
                {**row, "case_id": f"{row['case_id']}-reworded", "turns": turns, "origin": f"by {target}"[:200]}
            )
    return found


@challenge.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--accept-proposed", is_flag=True, help="Take rows that nobody has reviewed, too.")
def upload(session: Session, *, file: pathlib.Path, accept_proposed: bool) -> None:
    """Keep the accepted rows of FILE as an immutable set; the token's subject stands as its reviewer."""
    from luthier.display import to_document

    cases = accepted(file, accept_proposed=accept_proposed)
    found = session.run(lambda client: client.challenge_sets.create(session.parent, cases))
    if session.as_json:
        session.emit(to_document(found))
        return
    click.echo(found.name)
    session.note(f"{found.case_count:,} cases; next: luthier evaluate ADAPTER --challenge {found.name}")


@challenge.command("list")
def list_(session: Session) -> None:
    """List the tenant's sets."""
    from luthier.display import to_document, when

    async def work(client: AsyncClient) -> list[ChallengeSet]:
        return [found async for found in client.challenge_sets.list(session.parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"challenge_sets": [to_document(one) for one in found]})
        return
    rows = [(one.name, one.case_count, one.reviewer, when(one.create_time)) for one in found]
    session.table(["name", "#cases", "reviewer", "uploaded (UTC)"], rows)


@challenge.command()
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Print the cases of a set as JSONL, as `upload` takes them."""
    resource = session.name("challenge_set", name)

    async def work(client: AsyncClient) -> list[ChallengeCase]:
        return [case async for case in client.challenge_sets.list_cases(resource, page_size=200)]

    for case in session.run(work):
        session.emit(row_of(case, review="accepted"))


def named_or_read(session: Session, value: str) -> str | list[ChallengeCase]:
    """The name of a set from a name or an id; of a reviewed file its cases."""
    path = pathlib.Path(value)
    return accepted(path, accept_proposed=False) if path.is_file() else session.name("challenge_set", value)


async def uploaded(client: AsyncClient, session: Session, found: str | list[ChallengeCase]) -> str:
    """The name of a set; cases are uploaded as one."""
    return found if isinstance(found, str) else (await client.challenge_sets.create(session.parent, found)).name


def row_of(case: ChallengeCase, *, review: str) -> dict[str, Any]:
    """A case as a row for people."""
    from luthier.display import to_document

    row = to_document(case)
    return {**row, "kind": row["kind"].lower(), "expected": row["expected"].lower(), "review": review}


def accepted(path: pathlib.Path, *, accept_proposed: bool) -> list[ChallengeCase]:
    """The accepted rows of a reviewed file. ConfigError names the line that is wrong, or that nobody has reviewed."""
    from luthier.errors import ConfigError

    found, waiting = [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        case, review = _case(path, number, line)
        waiting += review == "proposed"
        if review == "accepted" or (review == "proposed" and accept_proposed):
            found.append(case)
    if waiting and not accept_proposed:
        raise ConfigError(
            f'{path}: {waiting:,} rows are still "proposed"; set "review" of each to "accepted" or "rejected", or give '
            "--accept-proposed",
            metadata={"file": str(path), "proposed_count": str(waiting)},
        )
    return found


def _case(path: pathlib.Path, number: int, line: str) -> tuple[ChallengeCase, str]:
    from luthier import config_files
    from luthier.errors import ConfigError
    from luthier.evaluator.v1.challenge_set_pb2 import ChallengeCase

    try:
        row = json.loads(line)
        review = row.pop("review", "proposed")
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} line {number} is no JSON object: {error}", metadata={"line": str(number)}) from error
    if review not in REVIEWS:
        text = f'"review" is {review!r}, not one of {", ".join(REVIEWS)}'
        raise ConfigError(f"{path} line {number}: {text}", metadata={"line": str(number)})
    try:
        return config_files.load(row, ChallengeCase), review
    except ConfigError as error:
        error.message = f"{path} line {number}: {error.message}"
        error.metadata |= {"line": str(number)}
        raise


def _write(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    part = path.with_name(path.name + ".part")  # an interrupted write leaves no half file under the name
    try:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
