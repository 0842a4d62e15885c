"""Evaluations of other tools, converted: rows of a dataset, an EvaluationConfig, a GatePolicy, and a list of what
cannot be converted. Nothing is dropped silently.

OpenAI's evals (hosted graders end on 30 November 2026) and promptfoo.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import ConfigError

SIMILARITIES = {"rouge_l": "rouge_l", "bleu": "bleu", "cosine": "semantic_similarity"}
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z0-9_.]+)\s*\}\}")
MAX_DESCRIPTION_CHARACTERS = 2000


@dataclass(kw_only=True)
class Imported:
    """The result. unsupported: what could not be converted, where, and what to do; notes: where a meaning changed."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    rubric: list[dict[str, Any]] = field(default_factory=list)
    conditions: list[dict[str, Any]] = field(default_factory=list)
    json_schema: str = ""
    unsupported: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def config(self) -> dict[str, Any]:
        """An EvaluationConfig."""
        found: dict[str, Any] = {"metrics": self.metrics} if self.metrics else {}
        if self.rubric:
            found["rubric"] = self.rubric
        if self.json_schema:
            found["json_schema"] = self.json_schema
        return found

    def policy(self) -> dict[str, Any]:
        """A GatePolicy; empty without a threshold."""
        return {"conditions": self.conditions} if self.conditions else {}

    def metric(self, name: str, *, at_least: object = None, where: str = "") -> None:
        """Adds a metric, and a condition if there is a threshold."""
        if name not in self.metrics:
            self.metrics.append(name)
        if isinstance(at_least, int | float) and not isinstance(at_least, bool):
            self.conditions.append({"metric": name, "arm": "adapter", "at_least": float(at_least)})
            self.notes.append(f"{where}: the threshold {at_least:g} was for each row; here the mean must lie above it")

    def criterion(self, name: str, description: str, *, where: str) -> None:
        """Adds a criterion for the judge. Criteria are numbered where names clash."""
        slug = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")[:50] or "criterion"
        slug = slug if slug[0].isalpha() else f"c_{slug}"
        if any(one["description"] == description for one in self.rubric):
            return
        taken = sum(one["name"].startswith(slug) for one in self.rubric)
        if len(description) > MAX_DESCRIPTION_CHARACTERS:
            self.unsupported.append(f"{where}: its text is longer than {MAX_DESCRIPTION_CHARACTERS} characters")
            return
        self.rubric.append({"name": f"{slug}_{taken + 1}" if taken else slug, "description": description})
        self.metric("rubric")


def import_openai(document: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Imported:
    """An eval (`testing_criteria`, and `input_messages` of its run) or one grader, with the items of its data."""
    found = Imported()
    criteria = document.get("testing_criteria", [document] if "type" in document else [])
    if not criteria:
        raise _unreadable("the file has neither `testing_criteria` nor a grader's `type`")
    references: list[str] = []
    for at, grader in enumerate(criteria):
        _grader(found, grader, f"testing_criteria[{at}] {grader.get('name', '')}".strip(), references)
    source = document.get("data_source", document)
    template = (source.get("input_messages") or {}).get("template")
    if not template:
        found.unsupported.append("input_messages: there is no template; the rows need one, so there are none")
        return found
    if not references:
        found.unsupported.append("no criterion names a reference ({{item.FIELD}}): there are no rows without")
        return found
    for at, given in enumerate(items):
        values = {"item": given.get("item", given)}
        _add_row(found, at, where=f"item {at + 1}", template=template, reference=references[0], values=values)
    return found


def _grader(found: Imported, grader: Mapping[str, Any], where: str, references: list[str]) -> None:
    kind = grader.get("type")
    if kind in ("string_check", "text_similarity"):
        if "sample.output_text" not in str(grader.get("input", "")):
            found.unsupported.append(f"{where}: its input is not {{{{sample.output_text}}}}")
            return
        references.append(str(grader.get("reference", "")))
    if kind == "string_check":
        if grader.get("operation") == "eq":
            found.metric("exact_match")
        else:
            found.unsupported.append(f"{where}: string_check {grader.get('operation')!r}; only eq is an exact match")
    elif kind == "text_similarity":
        similarity = str(grader.get("evaluation_metric"))
        if similarity in SIMILARITIES:
            found.metric(SIMILARITIES[similarity], at_least=grader.get("pass_threshold"), where=where)
        else:
            known = ", ".join(SIMILARITIES)
            found.unsupported.append(f"{where}: text_similarity {similarity!r}; choose one of {known}")
    elif kind in ("score_model", "label_model"):
        _model_grader(found, grader, where)
    elif kind == "multi":
        for name, inner in (grader.get("graders") or {}).items():
            _grader(found, inner, f"{where} {name}", references)
        found.unsupported.append(
            f"{where}: calculate_output {grader.get('calculate_output')!r}; each metric stands alone"
        )
    else:
        reason = "custom code is not run" if kind == "python" else "unknown"
        found.unsupported.append(f"{where}: grader {kind!r}; {reason}")


def _model_grader(found: Imported, grader: Mapping[str, Any], where: str) -> None:
    texts = [str(turn.get("content", "")) for turn in grader.get("input", []) if isinstance(turn, Mapping)]
    description = "\n".join(texts)
    if grader.get("labels"):
        passing = ", ".join(map(str, grader.get("passing_labels", [])))
        description += f"\nThe best grade if the label is one of: {passing}. The worst otherwise."
    found.criterion(str(grader.get("name") or grader["type"]), description, where=where)
    found.notes.append(
        f"{where}: graded by model {grader.get('model')!r}; here by `judge`, the base model unless the configuration "
        "names an endpoint, on its own scale; the judge sees templates in the text unchanged"
    )
    if "pass_threshold" in grader:
        found.unsupported.append(f"{where}: pass_threshold {grader['pass_threshold']} on its own scale")


def import_promptfoo(document: Mapping[str, Any]) -> Imported:
    """A configuration with its tests inline: prompts, tests, vars, asserts."""
    found = Imported()
    for key in sorted(set(document) - {"description", "prompts", "tests", "defaultTest"}):
        found.unsupported.append(f"{key}: not imported; the arms of `luthier evaluate` choose what answers")
    prompts, tests = document.get("prompts") or [], document.get("tests") or []
    if isinstance(prompts, str) or isinstance(tests, str) or not prompts or not tests:
        raise _unreadable("`prompts` and `tests` must be lists in the file itself, neither of them empty")
    prompt = prompts[0].get("raw", "") if isinstance(prompts[0], Mapping) else str(prompts[0])
    if not prompt or prompt.startswith("file://"):
        raise _unreadable(f"prompts[0] is {prompts[0]!r}; write its text into the file")
    for at in range(1, len(prompts)):
        found.unsupported.append(f"prompts[{at}]: only the first is used; try `luthier prompt optimise`")
    default = document.get("defaultTest") or {}
    for at, test in enumerate(tests):
        where = f"tests[{at}]"
        if not isinstance(test, Mapping):
            found.unsupported.append(f"{where}: {test!r} is not written in the file")
            continue
        for key in sorted(set(test) - {"vars", "assert", "description"}):
            found.unsupported.append(f"{where}.{key}: not imported")
        asserts = [*(default.get("assert") or []), *(test.get("assert") or [])]
        values = {**(default.get("vars") or {}), **(test.get("vars") or {})}
        references = list(_asserts(found, asserts, where))
        if references:
            template = [{"role": "user", "content": prompt}]
            _add_row(found, at, where=where, template=template, reference=references[0], values=values)
        else:
            found.unsupported.append(f"{where}: no assert gives the expected answer, so the row has no reference")
    return found


def _asserts(found: Imported, asserts: Sequence[Mapping[str, Any]], where: str) -> Iterator[str]:
    """The references among the asserts, the strictest first."""
    weaker: list[str] = []
    for at, one in enumerate(asserts):
        kind, value, place = str(one.get("type")), one.get("value"), f"{where}.assert[{at}]"
        if kind == "equals":
            found.metric("exact_match")
            yield value if isinstance(value, str) else json.dumps(value)
        elif kind == "similar":
            found.metric("semantic_similarity", at_least=one.get("threshold"), where=place)
            weaker.append(str(value))
        elif kind in ("contains", "icontains"):
            found.metric("rouge_l")
            found.notes.append(f"{place}: {kind} became the reference of rouge_l: words in common, not a yes or no")
            weaker.append(str(value))
        elif kind == "is-json" and value and not found.json_schema:
            found.json_schema = json.dumps(value)
            found.metric("json_schema_valid")
        elif kind == "is-json" and (not value or json.dumps(value) == found.json_schema):
            found.metric("json_schema_valid" if value else "json_valid")
        elif kind in ("llm-rubric", "model-graded-closedqa", "g-eval"):
            found.criterion(kind, str(value), where=place)
            found.notes.append(f"{place}: the criterion applies to every row, not only to this one")
        else:
            found.unsupported.append(f"{place}: {kind}; no metric corresponds to it")
    yield from weaker


def _add_row(
    found: Imported,
    at: int,
    *,
    where: str,
    template: Sequence[Mapping[str, Any]],
    reference: str,
    values: Mapping[str, Any],
) -> None:
    try:
        turns = [{"role": str(turn["role"]), "content": _filled(_text(turn["content"]), values)} for turn in template]
        turns.append({"role": "assistant", "content": _filled(reference, values)})
    except KeyError as error:
        found.unsupported.append(f"{where}: {error.args[0]!r} is not defined; the row is left out")
        return
    found.rows.append({"id": f"row-{at + 1}", "group": f"row-{at + 1}", "messages": turns})


def _text(content: Any) -> str:
    return str(content.get("text", "")) if isinstance(content, Mapping) else str(content)


def _filled(text: str, values: Mapping[str, Any]) -> str:
    def value_of(found: re.Match[str]) -> str:
        value: Any = values
        for part in found[1].split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise KeyError(found[1])
            value = value[part]
        return value if isinstance(value, str) else json.dumps(value)

    filled = _VARIABLE.sub(value_of, text)
    if "{%" in text or "{{" in _VARIABLE.sub("", text):
        raise KeyError("a template expression other than a variable")
    return filled


def _unreadable(problem: str) -> ConfigError:
    return ConfigError(f"the evaluation cannot be imported: {problem}", reason="EVAL_UNREADABLE")
