"""Instructions whose keeping a program can check, in the manner of IFEval (Zhou et al. 2023, arXiv 2311.07911): a topic
and one rule each. The answer's content is not judged.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TOPICS = (
    "the sea",
    "bicycles",
    "bread",
    "the moon",
    "libraries",
    "rain",
    "chess",
    "trees",
    "trains",
    "honey",
    "mountains",
    "clocks",
    "cats",
    "music",
    "rivers",
    "maps",
    "gardens",
    "bridges",
    "snow",
    "coffee",
)
WORDS = ("often", "small", "people", "water", "light", "world", "early", "green", "together", "simple")
PHRASES = ("That is all.", "Ask me for more.", "The end.", "I hope this helps.")


@dataclass(frozen=True)
class InstructionItem:
    """A prompt, and its rule by name with the argument (a number or a text; empty for a rule without one)."""

    item_id: str
    prompt: str
    rule: str
    argument: str = ""


@dataclass(frozen=True)
class Rule:
    """How a rule is said, with `{argument}`; the arguments to draw from; whether a trimmed answer keeps it."""

    said: str
    arguments: tuple[str, ...]
    kept: Callable[[str, str], bool]


def keeps_rule(item: InstructionItem, answer: str) -> bool:
    """Whether an answer keeps the item's rule. An empty answer keeps none."""
    text = answer.strip()
    return bool(text) and RULES[item.rule].kept(text, item.argument)


def instruction_items(count: int, rng: random.Random) -> list[InstructionItem]:
    """`count` items: the rules in turns, each with other topics and arguments."""
    names = list(RULES)
    items = []
    for number in range(count):
        name = names[number % len(names)]
        rule = RULES[name]
        argument = rng.choice(rule.arguments)
        prompt = f"Write a short text about {rng.choice(TOPICS)}. {rule.said.replace('{argument}', argument)}"
        items.append(InstructionItem(f"instruction-{number:04d}", prompt, name, argument))
    return items


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _words(text: str) -> list[str]:
    return re.findall(r"\w[\w'-]*", text)


def _bullets(text: str) -> int:
    return sum(line.lstrip().startswith(("* ", "- ")) for line in text.splitlines())


def _object_with(text: str, key: str) -> bool:
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and key in parsed


RULES: Mapping[str, Rule] = {
    "lower_case": Rule(
        "Use lower case letters only.", ("",), lambda text, _: _has_letters(text) and text == text.lower()
    ),
    "upper_case": Rule("Use capital letters only.", ("",), lambda text, _: _has_letters(text) and text == text.upper()),
    "no_comma": Rule("Do not use any commas.", ("",), lambda text, _: "," not in text),
    "at_most_words": Rule(
        "Use at most {argument} words.", ("10", "15", "20"), lambda text, most: len(_words(text)) <= int(most)
    ),
    "has_word": Rule(
        'Use the word "{argument}".', WORDS, lambda text, word: word in (one.lower() for one in _words(text))
    ),
    "begins_with": Rule(
        'Begin with the word "{argument}".',
        ("Today", "Once", "Imagine", "Every"),
        lambda text, word: bool(re.match(rf"{re.escape(word)}\b", text)),
    ),
    "ends_with": Rule(
        'End with exactly these words: "{argument}"', PHRASES, lambda text, phrase: text.rstrip("\"'").endswith(phrase)
    ),
    "bullets": Rule(
        'Write exactly {argument} bullet points, each beginning with "* ".',
        ("2", "3", "4"),
        lambda text, count: _bullets(text) == int(count),
    ),
    "quoted": Rule(
        "Put the whole text in double quotation marks.",
        ("",),
        lambda text, _: len(text) > 2 and text.startswith('"') and text.endswith('"'),
    ),
    "json_object": Rule('Answer with one JSON object that has the key "{argument}".', ("text", "answer"), _object_with),
}
