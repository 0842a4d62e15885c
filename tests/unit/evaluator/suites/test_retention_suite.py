"""Forgetting: items from what comes with Python, bound to the base model, measured base against adapter."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from luthierd.evaluator.decisions.gate import GateOutcome, judge
from luthierd.evaluator.decisions.gate_policy import GateCondition, GatePolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.domain.suites import SuiteConfig
from luthierd.evaluator.suites.instruction_rules import RULES, InstructionItem, keeps_rule
from luthierd.evaluator.suites.retention_items import RetentionItems, build_items, without_overlap
from luthierd.evaluator.suites.suite import SCORED, SHOWN, SuiteParts
from support.evaluator_material import FakePeers, MemoryBlobs, ScriptedModel, adapter_knows, quick_run

BASE = "b" * 64
ITEMS = build_items(BASE, 40)


class MemorySuites:
    """Suites by base model, in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], str] = {}

    async def find(self, base_model_sha256: str, item_count: int) -> str | None:
        return self.kept.get((base_model_sha256, item_count))

    async def add(self, base_model_sha256: str, item_count: int, *, blob_sha256: str) -> None:
        self.kept.setdefault((base_model_sha256, item_count), blob_sha256)


def test_the_suite_belongs_to_its_base_model_and_survives_the_file() -> None:
    assert build_items(BASE, 40) == ITEMS
    assert build_items("c" * 64, 40).choices != ITEMS.choices
    assert RetentionItems.deserialise(ITEMS.serialise()) == ITEMS
    assert [len(part) for part in (ITEMS.texts, ITEMS.choices, ITEMS.instructions)] == [40, 40, 40]


def test_texts_are_prose_of_many_sections_and_choices_have_one_right_answer() -> None:
    assert len({item.group for item in ITEMS.texts}) >= 20
    assert all(item.predicted.startswith(" ") and item.shown for item in ITEMS.texts)
    assert {item.task for item in ITEMS.choices} >= {"arithmetic", "calendar", "http", "file_types"}
    for item in ITEMS.choices:
        assert len(set(item.choices)) == 4
    sums = [item for item in ITEMS.choices if item.question.startswith("What is") and "plus" in item.question]
    for item in sums:
        left, right = (int(word.rstrip("?")) for word in item.question.split() if word.rstrip("?").isdigit())
        assert item.choices[item.correct] == str(left + right)


def test_the_places_of_right_answers_say_nothing() -> None:
    places = [item.correct for item in build_items(BASE, 400).choices]
    assert all(70 <= places.count(place) <= 130 for place in range(4))


def test_what_the_tenant_trained_on_is_no_general_text() -> None:
    own = ITEMS.texts[3]
    left = without_overlap(ITEMS.texts, [f"Before. {own.shown} {own.predicted} After.", "unrelated words only"])
    assert own not in left
    assert len(left) >= len(ITEMS.texts) - 3


KEPT = {
    "lower_case": ("", "the sea is blue.", "The sea."),
    "upper_case": ("", "THE SEA.", "The SEA."),
    "no_comma": ("", "Bread is good.", "Bread, butter."),
    "at_most_words": ("10", "Rain falls on the roof.", "a " * 11),
    "has_word": ("water", "Rivers are Water.", "Rivers are waterways."),
    "begins_with": ("Once", "Once there was a cat.", "Onceward there was."),
    "ends_with": ("The end.", "It snows. The end.", "The end. It snows."),
    "bullets": ("2", "* one\n* two", "* one\n* two\n* three"),
    "quoted": ("", '"Honey is sweet."', '"Honey" is sweet.'),
    "json_object": ("text", '```json\n{"text": "x"}\n```', '{"answer": "x"}'),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_knows_when_it_is_kept(rule: str) -> None:
    argument, kept, broken = KEPT[rule]
    item = InstructionItem("i", "p", rule, argument)
    assert keeps_rule(item, f" {kept}\n")
    assert not keeps_rule(item, broken)
    assert not keeps_rule(item, "")


def likelihood(arm: Arm, messages: tuple[Message, ...], *, forgetful: bool) -> str:
    """A base that gives each byte of a text a half and knows every choice; a forgetful adapter a quarter and none."""
    shown, scored = messages
    assert (shown.role, scored.role) == (SHOWN, SCORED)
    lost = forgetful and arm is Arm.ADAPTER
    size = len(scored.content.encode())
    if not shown.content.startswith("Question:"):
        # Adapters differ a little from text to text: without any spread no interval could be told from chance.
        wobble = 0.005 * (-1) ** size if arm is Arm.ADAPTER else 0.0
        return repr(size * math.log((0.25 if lost else 0.5) + wobble))
    right = any(
        f"Question: {item.question}\nAnswer:" == shown.content and f" {item.choices[item.correct]}" == scored.content
        for item in ITEMS.choices
    )
    return repr((-0.1 if right is not lost else -2.0) * size)


async def evaluated(
    *, forgetful: bool, suites: MemorySuites | None = None, blobs: MemoryBlobs | None = None
) -> tuple[Results, ScriptedModel]:
    def script(arm: Arm, messages: tuple[Message, ...]) -> object:
        try:
            return adapter_knows(arm, messages)
        except ValueError:  # an instruction of the suite
            return "THE SEA IS BLUE." if forgetful and arm is Arm.ADAPTER else "the sea is blue."

    blobs = blobs or MemoryBlobs()
    config = EvaluationConfig(
        arms=(Arm.BASE, Arm.PROMPTED, Arm.ADAPTER), resample_count=200, suites=SuiteConfig(retention_item_count=40)
    )
    chat_model = ScriptedModel(script)  # type: ignore[arg-type]
    scores = ScriptedModel(lambda arm, messages: likelihood(arm, tuple(messages), forgetful=forgetful))
    run = quick_run("tenants/acme/evaluations/e1", FakePeers(blobs), blobs, config=config, chat_model=chat_model)
    parts = SuiteParts(scores, suites or MemorySuites(), lambda _: [])
    results = await replace(run, suite_parts=parts).run()
    assert len(blobs.kept[results.suites[0].answers_sha256].splitlines()) == 40 + 160 + 40
    assert json.loads(blobs.kept[results.suites[0].sha256])["base_model_sha256"] == BASE
    return results, scores


def non_inferior(metric: Metric) -> GatePolicy:
    return GatePolicy((GateCondition(metric=metric, reference=Arm.BASE, at_least=-0.1),))


async def test_a_gate_stops_an_adapter_that_forgot_and_lets_one_pass_that_did_not() -> None:
    kept, _ = await evaluated(forgetful=False)
    lost, _ = await evaluated(forgetful=True)
    for metric in (Metric("forgetting_likelihood"), Metric("forgetting_choice")):
        assert judge(non_inferior(metric), kept.overall).outcome is GateOutcome.GO
        assert judge(non_inferior(metric), lost.overall).outcome is GateOutcome.NO_GO
    found = lost.overall.comparison(Metric("forgetting_likelihood"), Arm.ADAPTER, Arm.BASE)
    assert found is not None
    assert found.difference == pytest.approx(-0.25, abs=0.01)
    instructions = lost.overall.comparison(Metric("forgetting_instructions"), Arm.ADAPTER, Arm.BASE)
    assert instructions is not None


async def test_bits_per_byte_are_told_with_the_suite() -> None:
    results, scores = await evaluated(forgetful=True)
    bits = {figure.arm: figure.value for figure in results.suites[0].figures}
    assert bits == {Arm.BASE: pytest.approx(1.0), Arm.ADAPTER: pytest.approx(2.0, abs=0.03)}
    assert {arm for arm, _ in scores.calls} == {Arm.BASE, Arm.ADAPTER}


async def test_every_adapter_of_a_base_model_is_held_against_the_same_suite() -> None:
    suites, blobs = MemorySuites(), MemoryBlobs()
    first, _ = await evaluated(forgetful=False, suites=suites, blobs=blobs)
    second, _ = await evaluated(forgetful=True, suites=suites, blobs=blobs)
    assert first.suites[0].sha256 == second.suites[0].sha256 == suites.kept[BASE, 40]


async def test_a_suite_whose_blob_is_gone_is_made_again() -> None:
    suites, blobs = MemorySuites(), MemoryBlobs()
    first, _ = await evaluated(forgetful=False, suites=suites, blobs=blobs)
    del blobs.kept[first.suites[0].sha256]
    again, _ = await evaluated(forgetful=False, suites=suites, blobs=blobs)
    assert again.suites[0].sha256 == first.suites[0].sha256
    assert first.suites[0].sha256 in blobs.kept
