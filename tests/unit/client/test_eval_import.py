"""Evaluations of other tools: what they become, and that nothing is dropped in silence."""

from __future__ import annotations

import pytest
from luthier import config_files
from luthier.errors import ConfigError
from luthier.eval_import import import_openai, import_promptfoo
from luthier.evaluator.v1.evaluation_pb2 import EvaluationConfig
from luthier.evaluator.v1.gate_pb2 import GatePolicy

OUTPUT = "{{sample.output_text}}"
OPENAI = {
    "name": "tickets",
    "input_messages": {"type": "template", "template": [{"role": "user", "content": "Label: {{item.text}}"}]},
    "testing_criteria": [
        {"type": "string_check", "name": "eq", "input": OUTPUT, "reference": "{{ item.label }}", "operation": "eq"},
        {"type": "string_check", "name": "like", "input": OUTPUT, "reference": "{{item.label}}", "operation": "ilike"},
        {
            "type": "text_similarity",
            "name": "sim",
            "input": OUTPUT,
            "reference": "{{item.label}}",
            "evaluation_metric": "rouge_l",
            "pass_threshold": 0.8,
        },
        {"type": "text_similarity", "name": "f", "input": OUTPUT, "reference": "x", "evaluation_metric": "fuzzy_match"},
        {
            "type": "score_model",
            "name": "Is it polite?",
            "model": "gpt-x",
            "input": [{"role": "user", "content": "Polite?"}],
        },
        {
            "type": "label_model",
            "name": "tone",
            "model": "gpt-x",
            "labels": ["kind", "rude"],
            "passing_labels": ["kind"],
            "input": [{"role": "user", "content": "Which tone?"}],
        },
        {"type": "python", "name": "code", "source": "def grade(): ..."},
        {
            "type": "multi",
            "name": "both",
            "calculate_output": "a + b",
            "graders": {
                "a": {"type": "text_similarity", "input": OUTPUT, "reference": "r", "evaluation_metric": "cosine"}
            },
        },
    ],
}


def test_graders_become_metrics_and_criteria_and_the_rest_is_named() -> None:
    items = [
        {"item": {"text": "late", "label": "shipping"}},
        {"text": "broken", "label": "fault"},
        {"text": "no label"},
    ]
    found = import_openai(OPENAI, items)
    assert found.metrics == ["exact_match", "rouge_l", "rubric", "semantic_similarity"]
    assert found.conditions == [{"metric": "rouge_l", "arm": "adapter", "at_least": 0.8}]
    assert [one["name"] for one in found.rubric] == ["is_it_polite", "tone"]
    assert "one of: kind" in found.rubric[1]["description"]
    assert [row["messages"][0]["content"] for row in found.rows] == ["Label: late", "Label: broken"]
    assert found.rows[1]["messages"][-1] == {"role": "assistant", "content": "fault"}
    named = "\n".join(found.unsupported)
    for what in ("ilike", "fuzzy_match", "python", "calculate_output", "item 3"):
        assert what in named
    assert len(found.unsupported) == 5


PROMPTFOO = {
    "description": "capitals",
    "providers": ["openai:x"],
    "prompts": ["Capital of {{country}}?", "And {{country}}?"],
    "defaultTest": {"assert": [{"type": "llm-rubric", "value": "Is brief"}]},
    "tests": [
        {"vars": {"country": "France"}, "assert": [{"type": "equals", "value": "Paris"}]},
        {"vars": {"country": "Chad"}, "assert": [{"type": "similar", "value": "N'Djamena", "threshold": 0.8}]},
        {
            "vars": {"country": "Peru"},
            "assert": [{"type": "contains", "value": "Lima"}, {"type": "regex", "value": "L.*"}],
        },
        {"vars": {"country": "Oman"}, "assert": [{"type": "latency", "threshold": 100}]},
        {"vars": {}, "assert": [{"type": "equals", "value": "x"}], "options": {"a": 1}},
    ],
}


def test_asserts_become_metrics_and_references_and_the_rest_is_named() -> None:
    found = import_promptfoo(PROMPTFOO)
    assert [row["messages"][0]["content"] for row in found.rows] == [
        "Capital of France?",
        "Capital of Chad?",
        "Capital of Peru?",
    ]
    assert [row["messages"][-1]["content"] for row in found.rows] == ["Paris", "N'Djamena", "Lima"]
    assert found.metrics == ["rubric", "exact_match", "semantic_similarity", "rouge_l"]
    assert len(found.rubric) == 1
    named = "\n".join(found.unsupported)
    for what in ("providers", "prompts[1]", "regex", "latency", "tests[3]: no assert", "tests[4].options", "'country'"):
        assert what in named
    assert len(found.unsupported) == 7


def test_a_schema_is_carried_over_and_an_expression_is_not_guessed() -> None:
    schema = {"type": "object", "required": ["a"]}
    asserts = [{"type": "equals", "value": {"a": 1}}, {"type": "is-json", "value": schema}]
    found = import_promptfoo({"prompts": ["{% if x %}y{% endif %}"], "tests": [{"assert": asserts}]})
    assert found.rows == []
    assert "template expression" in found.unsupported[0]
    assert found.metrics == ["exact_match", "json_schema_valid"]


@pytest.mark.parametrize("found", [import_openai(OPENAI, []), import_promptfoo(PROMPTFOO)])
def test_what_is_written_is_what_the_contracts_take(found) -> None:
    config_files.load(found.config(), EvaluationConfig)
    config_files.load(found.policy(), GatePolicy)


@pytest.mark.parametrize(
    "document", [{}, {"prompts": "file://p.txt", "tests": [{}]}, {"prompts": ["x"], "tests": "t.csv"}]
)
def test_what_cannot_be_read_is_refused(document) -> None:
    with pytest.raises(ConfigError):
        import_promptfoo(document)
