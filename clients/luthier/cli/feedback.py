"""luthier feedback record | export"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.inference.v1.feedback_pb2 import CaptureFile, Feedback, Rating

RATINGS = ("good", "bad")


@click.group(cls=Group)
def feedback() -> None:
    """What users say about answers."""


@feedback.command()
@click.argument("response_id")
@click.option("--rating", type=click.Choice(RATINGS), help="Whether the answer was good.")
@click.option("--correction", metavar="TEXT", default="", help="What it should have been; `-` reads stdin.")
@click.option("--label", "labels", multiple=True, metavar="L", help="A label; may be repeated.")
def record(session: Session, *, response_id: str, rating: str | None, correction: str, labels: tuple[str, ...]) -> None:
    """Say what answer RESPONSE_ID was worth, or should have been. A later word replaces an earlier one."""
    from luthier.display import to_document

    if rating is None and not correction and not labels:
        raise click.UsageError("there is nothing to record; give --rating, --correction or --label")
    text = sys.stdin.read() if correction == "-" else correction

    async def work(client: AsyncClient) -> Feedback:
        return await client.feedback.record(
            session.parent, response_id, rating=rating_of(rating), correction=text, labels=labels
        )

    found = session.run(work)
    if session.as_json:
        session.emit(to_document(found))
        return
    click.echo(found.name)
    session.note(f"about an answer of {found.target}, loaded adapter {found.loaded_adapter}")


@feedback.command()
@click.option("--deployment", metavar="NAME", help="Only about answers of this deployment.")
@click.option("--rating", type=click.Choice(RATINGS), help="Only with this rating.")
@click.option("--output", "-o", type=click.Path(path_type=pathlib.Path), help="File to write the Parquet to as well.")
def export(session: Session, *, deployment: str | None, rating: str | None, output: pathlib.Path | None) -> None:
    """Write the feedback as a Parquet file into the blob store, with prompts and answers where they were captured."""
    from luthier.display import size, to_document

    wanted = session.name("deployment", deployment) if deployment else ""

    async def work(client: AsyncClient) -> CaptureFile:
        file = await client.feedback.export(session.parent, deployment=wanted, rating=rating_of(rating))
        if output is not None:
            await save(client.captures.read(file.name), output)
        return file

    file = session.run(work)
    if session.as_json:
        session.emit(to_document(file) | ({"file": str(output)} if output else {}))
        return
    click.echo(file.name)
    session.note(f"{file.row_count:,} rows, {size(file.size_bytes)}, sha256 {file.sha256[:12]}")


def rating_of(value: str | None) -> Rating.ValueType:
    """The contract's rating for an option's value; None: unspecified."""
    from luthier.inference.v1.feedback_pb2 import Rating

    return Rating.Value(f"RATING_{value.upper()}" if value else "RATING_UNSPECIFIED")


async def save(pieces: AsyncIterator[bytes], path: pathlib.Path) -> None:
    """Writes pieces into a file that is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            async for piece in pieces:
                file.write(piece)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
