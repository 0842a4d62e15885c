"""luthier dataset import | curate | show | list | export | delete"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from luthier import config_files, names
from luthier.cli.deletion import add_delete
from luthier.cli.files import EXISTING_FILE, PATH, save, whole_file
from luthier.cli.following import follow
from luthier.cli.revisions import dataset_or_revision, dataset_revision
from luthier.cli.session import Group, Session
from luthier.curation.v1.dataset_pb2 import CurationRecipe, Dataset, DatasetRevision, Split
from luthier.display import enum_name, state_of, to_document, when
from luthier.document_rows import read_documents
from luthier.errors import InvalidArgumentError

if TYPE_CHECKING:
    from luthier.client import AsyncClient

SPLITS = ("train", "validation", "holdout")


@click.group(cls=Group)
def dataset() -> None:
    """Datasets: the rows that adapters are trained and evaluated on."""


@dataset.command("import")
@click.argument("name")
@click.argument("files", nargs=-1, type=EXISTING_FILE)
@click.option("--documents", is_flag=True, help="Lines are {text, id, source}: documents for retrieval.")
@click.option("--from-feedback", is_flag=True, help="The tenant's feedback instead of FILES.")
@click.option("--deployment", metavar="NAME", help="With --from-feedback: only on answers of this deployment.")
def import_(
    session: Session,
    *,
    name: str,
    files: tuple[pathlib.Path, ...],
    documents: bool,
    from_feedback: bool,
    deployment: str | None,
) -> None:
    """Make the rows of JSONL FILES, or of one Parquet file, the source of dataset NAME. All or nothing.

    A row is {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"}; "group", "label", "id" are optional.
    From feedback, corrections and answers rated good become rows, where the prompt was captured.
    """
    if from_feedback == bool(files):
        raise click.UsageError("give either FILES or --from-feedback")
    if documents and from_feedback:
        raise click.UsageError("--documents needs FILES")
    if deployment and not from_feedback:
        raise click.UsageError("--deployment needs --from-feedback")
    resource = session.name("dataset", name)
    if from_feedback:
        wanted = session.name("deployment", deployment) if deployment else ""
        found = session.run(lambda client: _import_feedback(client, session, resource, wanted))
    elif documents:
        found = session.run(lambda client: client.datasets.import_rows(resource, read_documents(files)))
    else:
        found = session.run(lambda client: _import(client, resource, files))
    session.show(found, lambda found: click.echo(found.name))
    session.note(f"{found.row_count:,} rows, sha256 {found.source_sha256[:12]}; next: luthier dataset curate {name}")


async def _import_feedback(client: AsyncClient, session: Session, resource: str, deployment: str) -> Dataset:
    """Exports the feedback and imports the export."""
    file = await client.feedback.export(session.parent, deployment=deployment)
    with tempfile.TemporaryDirectory(prefix="luthier-feedback-") as folder:
        path = pathlib.Path(folder) / "feedback.parquet"
        await save(client.captures.read(file.name), path)
        found = await client.datasets.import_files(resource, [path])
    session.note(f"{found.row_count:,} of {file.row_count:,} answers with feedback became rows")
    return found


async def _import(client: AsyncClient, resource: str, files: tuple[pathlib.Path, ...]) -> Dataset:
    """Imports; the error of a malformed line names its file and its line in that file."""
    try:
        return await client.datasets.import_files(resource, files)
    except InvalidArgumentError as error:
        line = error.metadata.get("line", "")
        if line.isdigit():
            path, own_line = place_of(files, int(line))
            error.message = f"{path} line {own_line}: {error.message.removeprefix(f'line {line}: ')}"
            error.metadata |= {"file": str(path), "file_line": str(own_line)}
        raise


def place_of(files: tuple[pathlib.Path, ...], line: int) -> tuple[pathlib.Path, int]:
    """File and line, 1-based, of a line of the files' concatenation."""
    for path in files[:-1]:
        content = path.read_bytes()
        count = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
        if line <= count:
            return path, line
        line -= count
    return files[-1], line


@dataset.command()
@click.argument("name")
@click.option("--recipe", type=PATH, help="YAML of a CurationRecipe: a list of stages.")
@click.option("--detach", is_flag=True, help="Do not wait.")
def curate(session: Session, *, name: str, recipe: pathlib.Path | None, detach: bool) -> None:
    """Curate dataset NAME into a new immutable revision: clean, deduplicate, mask personal data, split."""
    resource = session.name("dataset", name)
    how = _load_recipe(recipe) if recipe else None

    async def work(client: AsyncClient) -> DatasetRevision:
        revision = await client.datasets.curate(resource, recipe=how)
        if not detach:
            revision = await follow(client, session, revision.name)
        return revision

    revision = session.run(work)
    if session.as_json:
        session.emit(revision, event="result")
        return
    click.echo(revision.name)
    if detach:
        session.note(f"watch it: luthier jobs watch {revision.name}")
    else:
        _show_revision(session, revision)


def _load_recipe(path: pathlib.Path) -> CurationRecipe:
    """A recipe file. The form of 0.1, with a section for each kind of stage, is still read."""
    found = config_files.read_mapping(path)
    if found and set(found) <= {"clean", "deduplicate", "pii", "split"}:
        threshold = (found.get("deduplicate") or {}).get("near_duplicate_threshold", 0.85)
        near = [{"stage": "near_duplicates", "settings": {"threshold": threshold}}] if threshold < 1 else []
        found = {
            "stages": [
                {"stage": "clean", "settings": found.get("clean")},
                {"stage": "exact_duplicates"},
                {"stage": "pii", "settings": found.get("pii")},
                {"stage": "contradictions"},
                *near,
                {"stage": "split", "settings": found.get("split")},
            ]
        }
    return config_files.load(found, CurationRecipe)


@dataset.command()
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Show a dataset with its revisions, or a revision with its splits and what curation dropped and why.

    NAME: an id, `ID/REVISION`, or a resource name.
    """
    resource = dataset_or_revision(session, name)
    if names.parse(resource).kind == "dataset_revision":
        revision = session.run(lambda client: client.datasets.get_revision(resource))
        session.show(revision, lambda found: _show_revision(session, found))
        return

    async def work(client: AsyncClient) -> tuple[Dataset, list[DatasetRevision]]:
        found = await client.datasets.get(resource)
        return found, [revision async for revision in client.datasets.list_revisions(resource)]

    found, revisions = session.run(work)
    if session.as_json:
        session.emit(to_document(found) | {"revisions": [to_document(revision) for revision in revisions]})
        return
    imported = when(found.update_time)
    click.echo(f"{found.name}: {found.row_count:,} rows imported {imported} UTC, sha256 {found.source_sha256[:12]}")
    session.table(
        ["revision", "state", "created (UTC)", "#train", "#validation", "#holdout", "sha256"],
        [(r.name, state_of(r), when(r.create_time), *_counts(r), r.sha256[:12]) for r in revisions],
    )


@dataset.command("list")
def list_(session: Session) -> None:
    """List the tenant's datasets."""
    session.show_list(
        "datasets",
        lambda client: client.datasets.list(session.parent),
        {
            "name": lambda one: one.name,
            "#rows": lambda one: f"{one.row_count:,}",
            "imported (UTC)": lambda one: when(one.update_time),
            "latest revision": lambda one: one.latest_revision,
        },
    )


@dataset.command()
@click.argument("revision")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Which rows.")
@click.option("--datasheet", is_flag=True, help="The datasheet (JSON) instead of rows.")
@click.option("--output", "-o", type=PATH, help="File to write; default: stdout.")
def export(session: Session, *, revision: str, split: str, datasheet: bool, output: pathlib.Path | None) -> None:
    """Write the rows of a split as JSONL, or the datasheet.

    REVISION: `ID/REVISION`, a resource name, or ID (latest).
    """
    session.adopt(revision)

    async def work(client: AsyncClient) -> tuple[str, int]:
        name = await dataset_revision(client, session, revision)
        if output is None:
            return name, await _export(client, name, split, datasheet, sys.stdout.buffer)
        with whole_file(output) as file:
            return name, await _export(client, name, split, datasheet, file)

    name, written = session.run(work)
    if output is not None and session.as_json:
        session.emit({"revision": name, "file": str(output), "size_bytes": written})
    elif output is not None:
        session.note(f"{name}: {written:,} bytes in {output}")


async def _export(client: AsyncClient, name: str, split: str, datasheet: bool, file: BinaryIO) -> int:
    if datasheet:
        text = json.dumps(await client.datasets.datasheet(name), indent=2, ensure_ascii=False)
        return file.write(text.encode() + b"\n")
    written = 0
    async for piece in client.datasets.read_split(name, Split.Value(f"SPLIT_{split.upper()}")):
        written += file.write(piece)
    file.flush()
    return written


def _counts(revision: DatasetRevision) -> list[str]:
    counts = {enum_name(split, "split").lower(): split.row_count for split in revision.splits}
    return [f"{counts.get(name, 0):,}" for name in SPLITS]


def _show_revision(session: Session, revision: DatasetRevision) -> None:
    click.echo(f"{revision.name}: {state_of(revision)}, sha256 {revision.sha256[:12]}")
    if revision.HasField("error"):
        click.echo(f"error: {revision.error.message}")
    rows: list[Any] = [
        (enum_name(one, "split").lower(), f"{one.row_count:,}", f"{one.group_count:,}", one.sha256[:12])
        for one in revision.splits
    ]
    session.table(["split", "#rows", "#groups", "sha256"], rows)
    stages = []
    for stage in revision.stages:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(stage.reason_counts.items()))
        stages.append((stage.stage, stage.dropped_count, stage.changed_count, reasons))
    session.table(["stage", "#dropped", "#changed", "reasons"], stages)


add_delete(dataset, dataset_or_revision, "Delete dataset NAME, or its revision NAME/R.")
