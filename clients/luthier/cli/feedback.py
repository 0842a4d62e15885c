"""luthier feedback record | export"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.files import PATH, save
from luthier.cli.session import Group, Session
from luthier.display import size
from luthier.inference.v1.feedback_pb2 import CaptureFile, Rating

if TYPE_CHECKING:
    from luthier.client import AsyncClient

RATINGS = ("good", "bad")


@click.group(cls=Group)
def feedback() -> None:
    """Feedback of users on answers."""


@feedback.command()
@click.argument("response_id")
@click.option("--rating", type=click.Choice(RATINGS), help="Whether the answer was good.")
@click.option("--correction", metavar="TEXT", default="", help="The answer it should have been; `-` reads stdin.")
@click.option("--label", "labels", multiple=True, metavar="L", help="A label; may be repeated.")
def record(session: Session, *, response_id: str, rating: str | None, correction: str, labels: tuple[str, ...]) -> None:
    """Rate, correct or label the answer RESPONSE_ID. Replaces earlier feedback on it."""
    if rating is None and not correction and not labels:
        raise click.UsageError("there is nothing to record; give --rating, --correction or --label")
    text = sys.stdin.read() if correction == "-" else correction

    given: dict[str, Any] = {"rating": _rating(rating), "correction": text, "labels": labels}
    found = session.run(lambda client: client.feedback.record(session.parent, response_id, **given))
    session.show(found, lambda found: click.echo(found.name))
    session.note(f"about an answer of {found.target}, loaded adapter {found.loaded_adapter}")


@feedback.command()
@click.option("--deployment", metavar="NAME", help="Only on answers of this deployment.")
@click.option("--rating", type=click.Choice(RATINGS), help="Only with this rating.")
@click.option("--output", "-o", type=PATH, help="File to also write the Parquet to.")
def export(session: Session, *, deployment: str | None, rating: str | None, output: pathlib.Path | None) -> None:
    """Write the feedback as a Parquet file into the blob store, with prompts and answers where they were captured."""
    wanted = session.name("deployment", deployment) if deployment else ""

    async def work(client: AsyncClient) -> CaptureFile:
        file = await client.feedback.export(session.parent, deployment=wanted, rating=_rating(rating))
        if output is not None:
            await save(client.captures.read(file.name), output)
        return file

    file = session.run(work)
    if session.as_json:
        session.emit(file, **({"file": str(output)} if output else {}))
        return
    click.echo(file.name)
    session.note(f"{file.row_count:,} rows, {size(file.size_bytes)}, sha256 {file.sha256[:12]}")


def _rating(value: str | None) -> Rating.ValueType:
    return Rating.Value(f"RATING_{value.upper()}" if value else "RATING_UNSPECIFIED")
