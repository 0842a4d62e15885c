"""A judge: a model that grades answers. Bounded, counted, cached, and never trusted to answer.

Whatever goes wrong (slow, away, cut off, refused, unreadable) is a JudgeError with a name, and becomes a row without a
score: the coverage falls, no score is made up. A judge that is away is given up after a few questions instead of being
waited for a thousand times.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import pydantic

from luthierd.errors import DeadlineExceededError, LuthierError, RetryableError
from luthierd.evaluator.domain.metric_details import JudgeReport
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.models.chat_endpoint import Completion

T = TypeVar("T", bound=pydantic.BaseModel)

KEY_VERSION = 1
"""Raised when something new decides what a judge says: no older judgement is then taken for a new one."""
ATTEMPTS = 3
MAX_WAIT_S = 5.0
GIVE_UP_AFTER = 5
"""Times in a row that the judge did not answer at all. Questions in flight together count once: one stall leaves
all of them without an answer.
"""

AWAY, SLOW, GIVEN_UP, CUT, UNREADABLE, ITSELF = (
    "JUDGE_AWAY",
    "JUDGE_SLOW",
    "JUDGE_GIVEN_UP",
    "JUDGE_CUT_OFF",
    "JUDGE_UNREADABLE",
    "JUDGE_IS_GENERATOR",
)


class JudgeError(ScoreFailedError):
    """The judge gave no judgement. `reason` begins with JUDGE_."""


class JudgeModel(Protocol):
    """A model that answers. Raises LuthierError."""

    @property
    def name(self) -> str:
        """What the configuration calls it."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Everything besides the messages that decides what it says: model, digest, tokens, temperature."""

    async def generate(self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None) -> Completion: ...


class JudgementStore(Protocol):
    """Completions of one tenant's judges, by content key."""

    async def find(self, key: str) -> Completion | None: ...

    async def add(self, key: str, completion: Completion) -> None: ...


@dataclass(kw_only=True)
class Judge:
    """Asks a model for judgements. `concurrency`: questions in flight, over all scorers of the evaluation."""

    model: JudgeModel
    store: JudgementStore
    concurrency: int = 4
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _calls: int = field(default=0, init=False)
    _cached: int = field(default=0, init=False)
    _unanswered: int = field(default=0, init=False)
    _failures: Counter[str] = field(default_factory=Counter, init=False)
    _tokens: Counter[str] = field(default_factory=Counter, init=False)
    _models: set[str] = field(default_factory=set, init=False)
    _templates: set[str] = field(default_factory=set, init=False)
    _seats: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._seats = asyncio.Semaphore(self.concurrency)

    async def ask(self, prompt: str | Sequence[Message], kind: type[T], *, template: str = "") -> T:
        """A judgement of the form `kind`, read from the model's JSON. `template` names the prompt for the lineage.
        JudgeError.
        """
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        self._templates.add(template or kind.__name__)
        try:
            completion = await self._completion(messages, kind)
            if completion.finish_reason == "length":
                raise JudgeError(CUT)
            return parse_judgement(completion.text, kind)
        except JudgeError as error:
            self._failures[error.reason] += 1
            raise

    def report(self) -> JudgeReport:
        """Statistics so far; the metric `pairwise` adds those about pairs."""
        described = json.dumps([sorted(self._templates), dict(self.model.parameters)], sort_keys=True, default=str)
        return JudgeReport(
            judge=self.model.name,
            model=", ".join(sorted(self._models)),
            prompts_sha256=hashlib.sha256(described.encode()).hexdigest(),
            call_count=self._calls,
            cached_count=self._cached,
            parse_failure_count=self._failures[UNREADABLE] + self._failures[CUT],
            failure_counts=dict(self._failures),
            prompt_tokens=self._tokens["prompt"],
            completion_tokens=self._tokens["completion"],
        )

    async def _completion(self, messages: Sequence[Message], kind: type[T]) -> Completion:
        schema = form_of(kind)
        key = judgement_key(self.model.parameters, messages, schema)
        async with self._seats:
            known = await self.store.find(key)
            if known is not None:
                self._cached += 1
                self._models.add(known.model)
                return known
            completion = await self._fresh(messages, schema)
        self._models.add(completion.model)
        self._tokens.update(prompt=completion.prompt_tokens, completion=completion.completion_tokens)
        await self.store.add(key, completion)
        return completion

    async def _fresh(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Completion:
        before = self._unanswered
        for attempt in range(ATTEMPTS):
            if self._unanswered >= GIVE_UP_AFTER:
                raise JudgeError(GIVEN_UP)
            self._calls += 1
            try:
                found = await self.model.generate(messages, schema=schema)
            except RetryableError as error:
                if attempt + 1 < ATTEMPTS:
                    await self.sleep(min(MAX_WAIT_S, max(0.1, error.retry_after_s)))
            except DeadlineExceededError:
                self._unanswered = max(self._unanswered, before + 1)
                raise JudgeError(SLOW) from None
            except LuthierError as error:
                raise JudgeError(f"JUDGE_{error.reason.removeprefix('JUDGE_')}") from None
            else:
                self._unanswered = 0
                return found
        self._unanswered = max(self._unanswered, before + 1)
        raise JudgeError(AWAY)


def judgement_key(parameters: Mapping[str, Any], messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
    """Identity of a judgement: model, prompt and parameters, all of them."""
    content = {
        "version": KEY_VERSION,
        "parameters": dict(parameters),
        "messages": [asdict(message) for message in messages],
        "schema": dict(schema),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def form_of(kind: type[pydantic.BaseModel]) -> dict[str, Any]:
    """The JSON Schema that a judge is shown and held to, without the classes' docstrings: they speak to programmers,
    and SmolLM2-135M answered with them.
    """
    schema = kind.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("description", None)
    return schema


def parse_judgement(text: str, kind: type[T]) -> T:
    """The judgement in a text: one JSON object, in a code fence or among words if need be. JudgeError."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise JudgeError(UNREADABLE)
    try:
        return kind.model_validate_json(text[start : end + 1])
    except (pydantic.ValidationError, ValueError):
        raise JudgeError(UNREADABLE) from None
