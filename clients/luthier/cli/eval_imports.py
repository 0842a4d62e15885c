"""luthier import-eval"""

from __future__ import annotations

import json
import pathlib

import click
import yaml

from luthier import config_files
from luthier.cli.files import EXISTING_FILE, PATH
from luthier.cli.session import Command, Session
from luthier.eval_import import import_openai, import_promptfoo


@click.command(cls=Command)
@click.argument("file", type=EXISTING_FILE)
@click.option("--from", "tool", required=True, type=click.Choice(["openai", "promptfoo"]), help="The file's tool.")
@click.option("--data", type=EXISTING_FILE, help="openai: JSONL of the items.")
@click.option("-o", "--output", required=True, type=PATH, help="Folder to write to.")
def import_eval(
    session: Session, *, file: pathlib.Path, tool: str, data: pathlib.Path | None, output: pathlib.Path
) -> None:
    """Convert another tool's evaluation to rows.jsonl, evaluation.yaml and policy.yaml. Nothing is sent.

    What cannot be converted is listed, and written to unsupported.txt.
    """
    document = config_files.read_mapping(file)
    if tool == "openai":
        items = [json.loads(line) for line in data.read_text().splitlines() if line.strip()] if data else []
        found = import_openai(document, items)
    else:
        found = import_promptfoo(document)
    output.mkdir(parents=True, exist_ok=True)
    config, policy = found.config(), found.policy()
    texts = {
        "rows.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows),
        "evaluation.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        "policy.yaml": yaml.safe_dump(policy, sort_keys=False) if policy else "",
        "unsupported.txt": "".join(f"{line}\n" for line in found.unsupported),
    }
    written = [name for name, text in texts.items() if text]
    for name in written:
        (output / name).write_text(texts[name], encoding="utf-8")
    if session.as_json:
        counts = {"row_count": len(found.rows), "unsupported": found.unsupported, "notes": found.notes}
        session.emit({"files": [str(output / name) for name in written]} | counts)
        return
    for name in written:
        click.echo(str(output / name))
    for line in found.unsupported:
        session.note(f"not imported: {line}")
    for line in found.notes:
        session.note(f"note: {line}")
    session.note(f"{len(found.rows):,} rows; next: luthier dataset import NAME {output / 'rows.jsonl'}")
