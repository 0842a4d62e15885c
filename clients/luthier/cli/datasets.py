"""luthier dataset import | curate | show | list | export"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from luthier.cli.session import Group, Session

if TYPE_CHECKING:
    from luthier.client import AsyncClient
    from luthier.curation.v1.dataset_pb2 import Dataset, DatasetRevision

SPLITS = ("train", "validation", "holdout")


@click.group(cls=Group)
def dataset() -> None:
    """Datasets: what adapters learn from and are tested on."""


@dataset.command("import")
@click.argument("name")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--documents", is_flag=True, help="Lines are {text, id, source}: what evaluations may retrieve.")
@click.option("--from-feedback", is_flag=True, help="The tenant's feedback instead of FILES.")
@click.option("--deployment", metavar="NAME", help="With --from-feedback: only about answers of this deployment.")
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
    Of feedback, corrections and answers that were rated good become rows, where the prompt was captured.
    """
    from luthier.display import to_document

    if from_feedback == bool(files):
        raise click.UsageError("give FILES, or --from-feedback")
    if documents and from_feedback:
        raise click.UsageError("--documents goes with FILES")
    if deployment and not from_feedback:
        raise click.UsageError("--deployment goes with --from-feedback")
    resource = session.name("dataset", name)
    if from_feedback:
        wanted = session.name("deployment", deployment) if deployment else ""
        found = session.run(lambda client: _import_feedback(client, session, resource, wanted))
    elif documents:
        from luthier.document_rows import read_documents

        found = session.run(lambda client: client.datasets.import_rows(resource, read_documents(files)))
    else:
        found = session.run(lambda client: _import(client, resource, files))
    if session.as_json:
        session.emit(to_document(found))
        return
    click.echo(found.name)
    session.note(f"{found.row_count:,} rows, sha256 {found.source_sha256[:12]}; next: luthier dataset curate {name}")


async def _import_feedback(client: AsyncClient, session: Session, resource: str, deployment: str) -> Dataset:
    """Exports the feedback and imports the export."""
    import tempfile

    from luthier.cli.feedback import save

    file = await client.feedback.export(session.parent, deployment=deployment)
    with tempfile.TemporaryDirectory(prefix="luthier-feedback-") as folder:
        path = pathlib.Path(folder) / "feedback.parquet"
        await save(client.captures.read(file.name), path)
        found = await client.datasets.import_files(resource, [path])
    session.note(f"{found.row_count:,} of {file.row_count:,} answers with feedback are examples")
    return found


async def _import(client: AsyncClient, resource: str, files: tuple[pathlib.Path, ...]) -> Dataset:
    """Imports; a bad line is told by its file and its line there."""
    from luthier.errors import InvalidArgumentError

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
    """File and line, 1-based, of a line of all files in a row."""
    for path in files[:-1]:
        content = path.read_bytes()
        count = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
        if line <= count:
            return path, line
        line -= count
    return files[-1], line


@dataset.command()
@click.argument("name")
@click.option("--recipe", type=click.Path(path_type=pathlib.Path), help="YAML of a CurationRecipe.")
@click.option("--detach", is_flag=True, help="Do not wait.")
def curate(session: Session, *, name: str, recipe: pathlib.Path | None, detach: bool) -> None:
    """Curate dataset NAME into a new immutable revision: clean, deduplicate, mask personal data, split."""
    from luthier import config_files
    from luthier.cli.watching import follow
    from luthier.curation.v1.dataset_pb2 import CurationRecipe
    from luthier.display import to_document

    resource = session.name("dataset", name)
    how = config_files.load(recipe, CurationRecipe) if recipe else None

    async def work(client: AsyncClient) -> DatasetRevision:
        revision = await client.datasets.curate(resource, recipe=how)
        if detach:
            return revision
        found: DatasetRevision = await follow(client, session, revision.name)
        return found

    revision = session.run(work)
    if session.as_json:
        session.emit({"event": "result"} | to_document(revision))
        return
    click.echo(revision.name)
    if detach:
        session.note(f"watch it: luthier jobs watch {revision.name}")
    else:
        _show_revision(session, revision)


@dataset.command()
@click.argument("name")
def show(session: Session, *, name: str) -> None:
    """Show a dataset with its revisions, or one revision: its splits and what curation dropped and why.

    NAME: an id, `ID/REVISION`, or a resource name.
    """
    from luthier import names
    from luthier.display import state_of, to_document, when

    resource = revision_name(session, name)
    if names.parse(resource).kind == "dataset_revision":
        revision = session.run(lambda client: client.datasets.get_revision(resource))
        if session.as_json:
            session.emit(to_document(revision))
        else:
            _show_revision(session, revision)
        return

    async def work(client: AsyncClient) -> tuple[Dataset, list[DatasetRevision]]:
        found = await client.datasets.get(resource)
        return found, [revision async for revision in client.datasets.list_revisions(resource)]

    found, revisions = session.run(work)
    if session.as_json:
        session.emit(to_document(found) | {"revisions": [to_document(revision) for revision in revisions]})
        return
    click.echo(f"{found.name}: {found.row_count:,} rows imported {when(found.update_time)}, {found.source_sha256[:12]}")
    session.table(
        ["revision", "state", "created (UTC)", "#train", "#validation", "#holdout", "sha256"],
        [(r.name, state_of(r), when(r.create_time), *_counts(r), r.sha256[:12]) for r in revisions],
    )


@dataset.command("list")
def list_(session: Session) -> None:
    """List the tenant's datasets."""
    from luthier.display import to_document, when

    async def work(client: AsyncClient) -> list[Dataset]:
        return [found async for found in client.datasets.list(session.parent)]

    found = session.run(work)
    if session.as_json:
        session.emit({"datasets": [to_document(one) for one in found]})
        return
    rows = [(one.name, f"{one.row_count:,}", when(one.update_time), one.latest_revision) for one in found]
    session.table(["name", "#rows", "imported (UTC)", "latest revision"], rows)


@dataset.command()
@click.argument("revision")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Which rows.")
@click.option("--datasheet", is_flag=True, help="The datasheet (JSON) instead of rows.")
@click.option("--output", "-o", type=click.Path(path_type=pathlib.Path), help="File to write; default: stdout.")
def export(session: Session, *, revision: str, split: str, datasheet: bool, output: pathlib.Path | None) -> None:
    """Write the rows of a split as JSONL, or the datasheet.

    REVISION: `ID/REVISION`, a resource name, or ID (latest).
    """
    resource = revision_name(session, revision)

    async def work(client: AsyncClient) -> tuple[str, int]:
        name = await latest_revision(client, resource)
        if output is None:
            return name, await _export(client, name, split, datasheet, sys.stdout.buffer)
        part = output.with_name(output.name + ".part")  # an interrupted export leaves no half file under the name
        try:
            with part.open("wb") as file:
                written = await _export(client, name, split, datasheet, file)
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
        return name, written

    name, written = session.run(work)
    if output is not None and session.as_json:
        session.emit({"revision": name, "file": str(output), "size_bytes": written})
    elif output is not None:
        session.note(f"{name}: {written:,} bytes in {output}")


async def _export(client: AsyncClient, name: str, split: str, datasheet: bool, file: BinaryIO) -> int:
    import json

    from luthier.curation.v1.dataset_pb2 import Split

    if datasheet:
        text = json.dumps(await client.datasets.datasheet(name), indent=2, ensure_ascii=False)
        return file.write(text.encode() + b"\n")
    written = 0
    async for piece in client.datasets.read_split(name, Split.Value(f"SPLIT_{split.upper()}")):
        written += file.write(piece)
    file.flush()
    return written


def revision_name(session: Session, value: str) -> str:
    """A dataset or revision name from `ID`, `ID/REVISION` or a resource name."""
    from luthier import names

    session.adopt(value)
    if value.startswith("tenants/"):
        parsed = names.parse(value)
        return str(parsed) if parsed.kind == "dataset" else str(names.parse_as(value, "dataset_revision"))
    dataset_id, separator, revision_id = value.partition("/")
    if separator:
        return names.dataset_revision(session.tenant, dataset_id, revision_id)
    return names.dataset(session.tenant, dataset_id)


async def latest_revision(client: AsyncClient, resource: str) -> str:
    """A revision's name as it is; a dataset's becomes that of its newest revision that is READY."""
    from luthier import names
    from luthier.errors import NotFoundError

    if names.parse(resource).kind == "dataset_revision":
        return resource
    latest = (await client.datasets.get(resource)).latest_revision
    if not latest:
        raise NotFoundError(
            f"{resource} has no revision that is READY; make one with "
            f"`luthier dataset curate {names.parse(resource).id}`",
            reason="NO_REVISION",
            metadata={"dataset": resource},
        )
    return latest


def _counts(revision: DatasetRevision) -> list[str]:
    from luthier.curation.v1.dataset_pb2 import Split

    counts = {split.split: split.row_count for split in revision.splits}
    return [f"{counts.get(Split.Value(f'SPLIT_{name.upper()}'), 0):,}" for name in SPLITS]


def _show_revision(session: Session, revision: DatasetRevision) -> None:
    from luthier.display import state_of, to_document

    click.echo(f"{revision.name}: {state_of(revision)}, sha256 {revision.sha256[:12]}")
    if revision.HasField("error"):
        click.echo(f"error: {revision.error.message}")
    splits: list[dict[str, Any]] = to_document(revision)["splits"]
    rows = [(s["split"].lower(), f"{s['row_count']:,}", f"{s['group_count']:,}", s["sha256"][:12]) for s in splits]
    session.table(["split", "#rows", "#groups", "sha256"], rows)
    steps = []
    for step in revision.steps:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(step.reason_counts.items()))
        steps.append((step.step, step.dropped_count, step.changed_count, reasons))
    session.table(["step", "#dropped", "#changed", "reasons"], steps)
