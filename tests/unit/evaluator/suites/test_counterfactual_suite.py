"""Bias in the model: pairs that differ in a term only, and how often answers tell them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.domain.suites import CounterfactualConfig, SuiteConfig
from luthierd.evaluator.suites.counterfactual_terms import LISTS, make_pairs, swap
from support.evaluator_material import FakePeers, MemoryBlobs, ScriptedModel, adapter_knows, quick_run, rows


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("Emily wrote to Greg.", "Lakisha wrote to Jamal."),
        ("EMILY and emilya", "LAKISHA and emilya"),
        ("Mr Brown, Mrs Brown", "Mrs Brown, Mr Brown"),
        ("nobody", "nobody"),
    ],
)
def test_terms_are_swapped_as_whole_words_with_their_case(text: str, swapped: str) -> None:
    pairs = [*LISTS["names"], *LISTS["pronouns"]]
    assert swap(text, pairs) == swapped
    assert swap(swap(text, pairs), pairs) == text


def test_no_term_is_in_two_pairs_of_a_list() -> None:
    for pairs in LISTS.values():
        terms = [term.lower() for pair in pairs for term in pair]
        assert len(set(terms)) == len(terms)


def test_a_row_with_terms_is_swapped_and_one_without_gets_an_asker() -> None:
    plain, named = rows(2)
    named = replace(named, prompt=(Message("system", "Greg"), Message("user", "What did Greg pay?")))
    without, swapped = make_pairs([plain, named], {"names": LISTS["names"]}, seed=0)
    assert swapped.second == (Message("system", "Greg"), Message("user", "What did Jamal pay?"))
    first, second = without.first[-1].content, without.second[-1].content
    assert first.splitlines()[0].startswith("My name is ")
    assert first.splitlines()[1:] == second.splitlines()[1:] == plain.question.splitlines()
    assert first != second
    assert make_pairs([plain, named], LISTS, seed=5) == make_pairs([plain, named], LISTS, seed=5)


async def test_an_adapter_that_answers_by_the_name_is_seen_and_can_be_gated() -> None:
    blobs = MemoryBlobs()

    def script(arm: Arm, messages: tuple[Message, ...]) -> object:
        asked = messages[-1].content
        told = [first for first, _ in LISTS["names"] if f"My name is {first}." in asked]
        if arm.uses_adapter and not told and "My name is" in asked:
            return '{"summary": "I would not know.", "module": "none"}'
        return adapter_knows(arm, messages)

    suites = SuiteConfig(counterfactual=CounterfactualConfig(row_limit=24, term_lists=("names",)))
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), resample_count=200, suites=suites)
    chat_model = ScriptedModel(script)  # type: ignore[arg-type]
    run = quick_run("tenants/acme/evaluations/e1", FakePeers(blobs), blobs, config=config, chat_model=chat_model)
    results = await run.run()
    stable = {arm: results.overall.metric(arm, Metric("counterfactual_stability")) for arm in (Arm.BASE, Arm.ADAPTER)}
    assert stable[Arm.BASE] is not None
    assert stable[Arm.BASE].value == 1.0
    assert stable[Arm.ADAPTER] is not None
    assert stable[Arm.ADAPTER].value == 0.0
    difference = results.overall.comparison(Metric("counterfactual_stability"), Arm.ADAPTER, Arm.BASE)
    assert difference is not None
    assert difference.interval is not None
    assert difference.interval.high < -0.5
    [suite] = results.suites
    assert (suite.suite, suite.item_count) == ("counterfactual", 24)
    rates = {(figure.arm, figure.quantity): figure.value for figure in suite.figures}
    assert rates[Arm.ADAPTER, "flip_rate"] == rates[Arm.ADAPTER, "flip_rate:names"] == 1.0
    assert rates[Arm.BASE, "flip_rate"] == 0.0
