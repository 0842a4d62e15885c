"""The documents of the tasks in this folder. lm-eval calls each function once; all are deterministic."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from luthierd.evaluator.suites.instruction_rules import InstructionItem, instruction_items, keeps_rule

# As many as `LmEvalSuite.item_count` may ask for; training documents only serve as examples.
TEST_COUNT, TRAIN_COUNT = 1000, 32
PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo")
THINGS = (
    "apple",
    "ball",
    "basket",
    "bell",
    "book",
    "bottle",
    "box",
    "candle",
    "clock",
    "coat",
    "cup",
    "drum",
    "flower",
    "hammer",
    "hat",
    "key",
    "lamp",
    "map",
    "pencil",
    "ring",
    "rope",
    "shell",
    "spoon",
    "stone",
)

Splits = dict[str, Dataset]


def arithmetic(**_: Any) -> Splits:
    """Sums of two-digit numbers and products of digits, in turns."""
    rng = random.Random("luthier_arithmetic/1")  # noqa: S311
    return {
        split: Dataset.from_list([_sum_or_product(at, rng) for at in range(count)])
        for split, count in (("train", TRAIN_COUNT), ("test", TEST_COUNT))
    }


def cloze(**_: Any) -> Splits:
    """Stories of four people with a thing each."""
    rng = random.Random("luthier_cloze/1")  # noqa: S311
    return {"test": Dataset.from_list([_story(rng) for _ in range(TEST_COUNT)])}


def instructions(**_: Any) -> Splits:
    """A topic and a rule each."""
    rng = random.Random("luthier_instructions/1")  # noqa: S311
    return {"test": Dataset.from_list([dataclasses.asdict(item) for item in instruction_items(TEST_COUNT, rng)])}


def instruction_kept(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 if the answer keeps the document's rule, else 0."""
    return {"kept": float(keeps_rule(InstructionItem(**doc), results[0]))}


def _sum_or_product(at: int, rng: random.Random) -> dict[str, Any]:
    if at % 2:
        left, right = rng.randint(2, 9), rng.randint(2, 9)
        return {"question": f"What is {left} times {right}?", "answer": str(left * right)}
    left, right = rng.randint(10, 99), rng.randint(10, 99)
    return {"question": f"What is {left} plus {right}?", "answer": str(left + right)}


def _story(rng: random.Random) -> dict[str, Any]:
    people, things = rng.sample(PEOPLE, 4), rng.sample(THINGS, 4)
    told = " ".join(f"{person} has the {thing}." for person, thing in zip(people, things, strict=True))
    asked = rng.randrange(4)
    order = rng.sample(things, 4)
    return {"story": told, "person": people[asked], "choices": order, "answer": order.index(things[asked])}
