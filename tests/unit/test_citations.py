"""What documentation, docstrings and comments cite exists: links, paths, names, settings and commands."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import click
import pytest
from luthier.cli.main import COMMANDS, root
from support import citations
from support.citations import Cited

RENAMES = citations.ROOT / "docs/decisions/0018-names-of-the-field.md"
"""Its tables have the old names, which are gone."""
EXTERNAL = {
    "DisjointSet",
    "OpenAIServingModels",
    "Request.num_tokens",
    "classification_report",
    "custom_dataset",
    "inspect.Signature",
    "integrate.rk_step",
    "max_logprobs",
    "start_http_server",
    "submodule.Class.method",
    "torch.profiler",
    "trace_decode_token_ids",
    "utils.all_displays",
}
"""Names of other projects that no code of ours uses."""


@functools.cache
def tokens() -> list[tuple[Cited, str]]:
    """Everything in backticks."""
    return [
        (line, token.strip().removesuffix("()"))
        for line in citations.cited()
        if line.file != RENAMES
        for token in citations.BACKTICKED.findall(line.text)
    ]


def _report(broken: list[tuple[Cited, str]]) -> None:
    assert not broken, "\n".join(f"{line} cites {what}, which does not exist" for line, what in broken)


def test_every_path_exists() -> None:
    broken = [
        (line, path)
        for line in citations.cited()
        for path in citations.PATH.findall(line.text)
        if not re.fullmatch(r"docs/r\d", path) and not citations.path_exists(path, line.file)  # a dataset's revision
    ]
    for line, token in tokens():
        if token.endswith(citations.SOURCES) and re.fullmatch(r"[\w{},./-]+", token):
            found = citations.path_exists(token, line.file) if "/" in token else citations.files(f"**/{token}")
            broken += [] if found else [(line, token)]
    _report(broken)


def test_every_link_leads_somewhere() -> None:
    pages = [line for line in citations.cited() if line.file.suffix == ".md"]
    _report(
        [
            (line, target)
            for line in pages
            for target in citations.LINK.findall(line.text)
            if citations.broken_link(target, line.file)
        ]
    )


def test_every_setting_exists() -> None:
    lines = [line for line in citations.cited() if line.file != RENAMES]
    _report(
        [
            (line, variable)
            for line in lines
            for variable in citations.SETTING.findall(line.text)
            if variable not in citations.settings()
        ]
    )


def test_every_name_exists() -> None:
    _report(
        [
            (line, token)
            for line, token in tokens()
            if token not in EXTERNAL and not token.endswith(citations.SOURCES)
            if (citations.DOTTED.fullmatch(token) and not citations.name_exists(token, line.file))
            or (citations.NAME.fullmatch(token) and token not in citations.words() | citations.settings())
        ]
    )


def _command_lines() -> Iterator[tuple[Cited, str]]:
    """Every command line in a code block or in backticks."""
    for line in citations.cited():
        if line.file == RENAMES:
            continue
        if found := re.match(r"(?: {4,}|\s*run: )(luthier [^#]*)", line.text):
            yield line, found[1]
        for token in citations.BACKTICKED.findall(line.text):
            if token.startswith("luthier "):
                yield line, token


def _problem(command_line: str) -> str:
    """Which command or option there is not; empty if all is well."""
    words = re.sub(r"[\[\]()]|\\\||\.\.\.", " ", command_line).split()
    name = words[1] if len(words) > 1 else ""
    if name.startswith("-") or not re.match(r"[a-z]", name):
        return ""
    if name not in COMMANDS:
        return f"luthier {name}"
    command = root.get_command(click.Context(root), name)
    if isinstance(command, click.Group):
        verb = next((word for word in words[2:3] if word in command.commands), None)
        if verb is None and words[2:3] and re.fullmatch(r"[a-z]+", words[2]):
            return f"luthier {name} {words[2]}"
        command = command.commands[verb or "run"] if verb or "run" in command.commands else None
    if command is None:
        return ""
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in known]
    return f"luthier {name} {unknown[0]}" if unknown else ""


def test_every_command_exists_with_its_options() -> None:
    _report([(line, problem) for line, text in _command_lines() if (problem := _problem(text))])


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("luthierd.statistics.clustered", True),
        ("luthierd.statistics.clustered.bootstrap_interval", True),
        ("luthierd.statistics.clustered.no_interval", False),
        ("luthierd.nowhere", False),
        ("clustered.MIN_GROUPS", True),
        ("clustered.Nothing", False),
        ("EvaluationConfig.purpose", True),
        ("EvaluationConfig.nothing", False),
    ],
)
def test_a_name_is_resolved_in_the_sources(text: str, *, is_found: bool) -> None:
    assert citations.name_exists(text, citations.ROOT / "README.md") is is_found


def test_a_missing_path_anchor_and_option_are_noticed() -> None:
    page = citations.ROOT / "README.md"
    assert not citations.path_exists("docs/nothing.md", page)
    assert citations.broken_link("docs/cli.md#nothing", page)
    assert not citations.broken_link("docs/cli.md#exit-codes", page)
    assert _problem("luthier gate plan --nothing F") == "luthier gate --nothing"
    assert _problem("luthier nothing") == "luthier nothing"
