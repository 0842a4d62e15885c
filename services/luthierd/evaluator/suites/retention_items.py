"""What a base model should still know after it was tuned, made of what comes with Python: prose of its language
reference to predict, questions to choose an answer of, instructions whose keeping can be checked.

Made once per base model and stored, so that all its adapters get the same items. Most base models have read such texts:
the suite tests what is lost, not how well a model generalises.
"""

from __future__ import annotations

import calendar
import hashlib
import http
import json
import mimetypes
import pydoc_data.topics
import random
import re
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from luthierd.codec import from_json, to_json
from luthierd.evaluator.suites.instruction_rules import InstructionItem, instruction_items

# A paragraph is cut here: a third is shown, the rest is predicted. About 150 tokens in all.
MIN_CHARACTERS, MAX_CHARACTERS, SHOWN_SHARE = 240, 600, 1 / 3
LETTER_SHARE = 0.9
"""Prose, not tables or code: so many of its characters are letters or spaces."""
# Shares of so many words in a row with a training row make a text the tenant's own.
OVERLAP_WORDS = 8
CHOICE_COUNT = 4
CONTINENTS = ("Africa", "America", "Asia", "Australia", "Europe")


@dataclass(frozen=True)
class TextItem:
    """A text: `shown` comes first, `predicted` is scored. `group` is the section that it is from."""

    item_id: str
    group: str
    shown: str
    predicted: str


@dataclass(frozen=True)
class ChoiceItem:
    """A question and its choices; `correct` is the index of the right one."""

    item_id: str
    task: str
    question: str
    choices: tuple[str, ...]
    correct: int


@dataclass(frozen=True)
class RetentionItems:
    """The suite of one base model."""

    base_model_sha256: str
    texts: tuple[TextItem, ...]
    choices: tuple[ChoiceItem, ...]
    instructions: tuple[InstructionItem, ...]

    def serialise(self) -> bytes:
        """The same suite gives the same bytes; their digest is the suite's, and names its base model."""
        return json.dumps(to_json(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def deserialise(cls, data: bytes) -> RetentionItems:
        """What `serialise` wrote."""
        return from_json(cls, json.loads(data))


def build_items(base_model_sha256: str, item_count: int) -> RetentionItems:
    """`item_count` items of each part. The base model's digest is the seed: another model, other items."""
    seed = hashlib.sha256(base_model_sha256.encode()).hexdigest()
    return RetentionItems(
        base_model_sha256,
        tuple(_texts(item_count, random.Random(f"{seed}/texts"))),  # noqa: S311
        tuple(_choices(item_count, random.Random(f"{seed}/choices"))),  # noqa: S311
        tuple(instruction_items(item_count, random.Random(f"{seed}/instructions"))),  # noqa: S311
    )


def without_overlap(texts: Sequence[TextItem], training_texts: Iterable[str]) -> list[TextItem]:
    """The texts that share no OVERLAP_WORDS words in a row with the tenant's own."""
    theirs = {run for text in training_texts for run in _runs(text)}
    return [item for item in texts if theirs.isdisjoint(_runs(f"{item.shown} {item.predicted}"))]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + OVERLAP_WORDS]) for start in range(len(words) - OVERLAP_WORDS + 1)}


def _texts(count: int, rng: random.Random) -> list[TextItem]:
    """One paragraph of each section before a second one of any: many sections say more than many paragraphs."""
    by_topic = {
        topic: found for topic, text in sorted(pydoc_data.topics.topics.items()) if (found := _paragraphs(str(text)))
    }
    queues = [(topic, rng.sample(paragraphs, len(paragraphs))) for topic, paragraphs in by_topic.items()]
    rng.shuffle(queues)
    depth = max((len(paragraphs) for _, paragraphs in queues), default=0)
    order = [(topic, found[level]) for level in range(depth) for topic, found in queues if level < len(found)]
    items = []
    for number, (topic, text) in enumerate(order[:count]):
        cut = text.rfind(" ", 0, int(len(text) * SHOWN_SHARE)) + 1
        items.append(TextItem(f"text-{number:04d}", topic, text[:cut].rstrip(), f" {text[cut:]}"))
    return items


def _paragraphs(text: str) -> list[str]:
    found = []
    for raw in re.split(r"\n\s*\n", text):
        paragraph = " ".join(raw.split())
        letters = sum(character.isalpha() or character == " " for character in paragraph)
        if len(paragraph) >= MIN_CHARACTERS and letters >= LETTER_SHARE * len(paragraph) and paragraph[0].isupper():
            cut = paragraph.rfind(" ", 0, MAX_CHARACTERS)
            found.append(paragraph if len(paragraph) <= MAX_CHARACTERS else paragraph[:cut])
    return found


def _choices(count: int, rng: random.Random) -> list[ChoiceItem]:
    """The tasks in turns, until there are enough or every task is used up."""
    queues = {name: rng.sample(found, len(found)) for name, make in TASKS.items() if (found := make())}
    depth = max((len(found) for found in queues.values()), default=0)
    order = [(name, found[level]) for level in range(depth) for name, found in queues.items() if level < len(found)]
    return [
        _choice(f"choice-{number:04d}", name, question, rng) for number, (name, question) in enumerate(order[:count])
    ]


@dataclass(frozen=True)
class _Question:
    text: str
    right: str
    wrong: tuple[str, ...]


def _choice(item_id: str, task: str, question: _Question, rng: random.Random) -> ChoiceItem:
    wrong = rng.sample(question.wrong, CHOICE_COUNT - 1)
    choices = rng.sample([question.right, *wrong], CHOICE_COUNT)
    return ChoiceItem(item_id, task, question.text, tuple(choices), choices.index(question.right))


def _continents() -> list[_Question]:
    """Of the time zones of the machine, whose names are Continent/City."""
    zones = sorted(zone.split("/") for zone in zoneinfo.available_timezones())
    cities = [parts for parts in zones if len(parts) == 2 and parts[0] in CONTINENTS and "-" not in parts[1]]
    return [
        _Question(
            f"On which continent is {city.replace('_', ' ')}?",
            place,
            tuple(other for other in CONTINENTS if other != place),
        )
        for place, city in cities
    ]


def _arithmetic() -> list[_Question]:
    found = []
    for left in range(2, 30):
        for right in range(2, 10):
            for sign, value in (("plus", left + right), ("times", left * right)):
                wrong = tuple(str(value + step) for step in (-2, -1, 1, 2, 10))
                found.append(_Question(f"What is {left} {sign} {right}?", str(value), wrong))
    return found


def _calendar() -> list[_Question]:
    found = []
    for names, kind in ((list(calendar.month_name)[1:], "month"), (list(calendar.day_name), "day")):
        for position, name in enumerate(names):
            for word, step in (("after", 1), ("before", -1)):
                right = names[(position + step) % len(names)]
                wrong = tuple(other for other in names if other not in (right, name))
                found.append(_Question(f"Which {kind} comes right {word} {name}?", right, wrong))
    return found


def _http() -> list[_Question]:
    phrases = {status.value: status.phrase for status in http.HTTPStatus}
    return [
        _Question(
            f"What does the HTTP status code {code} mean?", phrase, tuple(sorted(set(phrases.values()) - {phrase}))
        )
        for code, phrase in sorted(phrases.items())
    ]


def _file_types() -> list[_Question]:
    kinds = ("image", "audio", "video", "text")
    known = sorted(mimetypes.MimeTypes(filenames=()).types_map[True].items())
    return [
        _Question(f"What does a file that ends in {end} hold?", kind, tuple(other for other in kinds if other != kind))
        for end, full in known
        if (kind := full.partition("/")[0]) in kinds
    ]


TASKS: Mapping[str, Callable[[], list[_Question]]] = {
    "continents": _continents,
    "arithmetic": _arithmetic,
    "calendar": _calendar,
    "http": _http,
    "file_types": _file_types,
}
