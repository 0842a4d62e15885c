"""What is served under which name, and how that may change. Pure rules; standard library only."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from luthierd.inference.domain.errors import NoCandidateError, NoPreviousError, RevisionNotHeldError
from luthierd.inference.domain.traffic import Share

BASE_LOADED_ADAPTER = "base"
"""Name of the loaded adapter that answers for a base model alone."""


@dataclass(frozen=True)
class BaseModel:
    """A registered base model, by name and content."""

    name: str
    sha256: str


@dataclass(frozen=True)
class AdapterRevision:
    """An immutable adapter revision, by name and content, and the base model it was trained on."""

    name: str
    sha256: str
    base_model: BaseModel

    @property
    def loaded_adapter(self) -> str:
        """The loaded adapter's name: made of the content digest, so equal weights have one name and others another."""
        return f"g-{self.sha256[:20]}"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A stable name and the revisions behind it. A change makes a new value; `revision` counts those of routing."""

    name: str
    create_time: float
    update_time: float
    revision: int = 0
    change: int = 0
    """Counts every change, also those that route nothing; the etag is made of it."""
    live: AdapterRevision | None = None
    candidate: AdapterRevision | None = None
    previous: AdapterRevision | None = None
    is_pinned: bool = False
    shares: tuple[Share, ...] = ()
    """How requests are split over what it holds; empty: all go to `live`."""
    mirror_sha256: str = ""
    """The held revision that answers copies; empty: none."""

    @property
    def etag(self) -> str:
        """Another one after every change."""
        return hashlib.sha256(f"{self.name}\0{self.create_time}\0{self.change}".encode()).hexdigest()[:16]

    @property
    def held(self) -> tuple[AdapterRevision, ...]:
        """The revisions that it may route to now or after a promotion or rollback."""
        return tuple(revision for revision in (self.live, self.candidate, self.previous) if revision)

    def holding(self, sha256: str) -> AdapterRevision | None:
        """The held revision of that content."""
        return next((revision for revision in self.held if revision.sha256 == sha256), None)

    @property
    def routed(self) -> tuple[AdapterRevision, ...]:
        """The revisions that get requests or copies of them now."""
        wanted = {share.sha256 for share in self.shares if share.weight} | {self.mirror_sha256}
        if not self.shares and self.live is not None:
            wanted.add(self.live.sha256)
        return tuple({one.sha256: one for one in self.held if one.sha256 in wanted}.values())

    def stage(self, candidate: AdapterRevision, now: float) -> Deployment:
        """With `candidate` loaded but not routed to; all requests go to `live`. A split's end is a new revision."""
        return replace(
            self,
            candidate=candidate,
            shares=(),
            mirror_sha256="",
            update_time=now,
            revision=self.revision + bool(self.shares),
            change=self.change + 1,
        )

    def split(self, shares: tuple[Share, ...], mirror_sha256: str, now: float) -> Deployment:
        """With requests split over held revisions. RevisionNotHeldError for one of another content."""
        for sha256 in (*(share.sha256 for share in shares), mirror_sha256):
            if sha256 and self.holding(sha256) is None:
                raise RevisionNotHeldError(self.name, sha256)
        return replace(
            self,
            shares=shares,
            mirror_sha256=mirror_sha256,
            revision=self.revision + 1,
            update_time=now,
            change=self.change + 1,
        )

    def route(self, live: AdapterRevision, now: float) -> Deployment:
        """With all requests going to `live`; what was live is now the previous one."""
        candidate = None if self.candidate and self.candidate.sha256 == live.sha256 else self.candidate
        return replace(
            self,
            live=live,
            previous=self.live,
            candidate=candidate,
            shares=(),
            mirror_sha256="",
            revision=self.revision + 1,
            update_time=now,
            change=self.change + 1,
        )

    def pin(self, now: float, *, is_pinned: bool) -> Deployment:
        """With all that it holds kept in memory, or no longer."""
        return replace(self, is_pinned=is_pinned, update_time=now, change=self.change + 1)

    def promote(self, now: float) -> Deployment:
        """NoCandidateError without a candidate."""
        if self.candidate is None:
            raise NoCandidateError(self.name)
        return self.route(self.candidate, now)

    def roll_back(self, now: float) -> Deployment:
        """With the previous revision live, and what was live as the previous one. NoPreviousError without one."""
        if self.previous is None:
            raise NoPreviousError(self.name)
        return self.route(self.previous, now)


class LoadedAdapterState(enum.Enum):
    """COLD -> LOADING -> READY | FAILED; READY -> COLD to make room; FAILED -> LOADING; READY -> DRAINING -> gone."""

    COLD = "COLD"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


class EngineState(enum.Enum):
    """STOPPED -> STARTING -> READY | FAILED; READY -> STARTING after the engine's process died."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose tokens. `temperature` 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int = 0
    """0: all tokens."""
    top_logprob_count: int | None = None
    """Alternatives with each token's log-probability; None: no log-probabilities."""
    choice_count: int = 1
    structure: Structure | None = None


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What an answer must be: `kind` is one of the constants, `text` its content, `choices` for CHOICES."""

    kind: str
    text: str = ""
    choices: tuple[str, ...] = ()

    JSON_SCHEMA: ClassVar[str] = "json_schema"
    REGEX: ClassVar[str] = "regex"
    GRAMMAR: ClassVar[str] = "grammar"
    CHOICES: ClassVar[str] = "choices"

    @property
    def field(self) -> str:
        """Where a request has it."""
        return f"sampling.{self.kind}"


class TokenAlternative(NamedTuple):
    """A token that could have been made."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token that was made or scored; `alternatives` likeliest first."""

    token_id: int
    text: str
    logprob: float
    alternatives: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class TokenIds:
    """Tokens of the base model's vocabulary, in place of a text."""

    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who answered."""

    loaded_adapter: str
    deployment_revision: int
    adapter_revision: str
    base_model: str


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How an answer came about. Times count from the arrival of the call."""

    reason: str
    prompt_token_count: int
    completion_token_count: int
    ttft_ms: float
    latency_ms: float
    cached_prompt_token_count: int = 0
    queue_ms: float = 0.0

    @classmethod
    def without_times(cls, prompt_token_count: int, completion_token_count: int) -> Finish:
        """Of work that is whole when it ends: a score, an embedding."""
        return cls(
            reason="stop",
            prompt_token_count=prompt_token_count,
            completion_token_count=completion_token_count,
            ttft_ms=0.0,
            latency_ms=0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the answers to a prompt."""

    text: str
    reason: str
    completion_token_count: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; `choices` has as many as were asked for."""

    choices: tuple[Choice, ...]
    finish: Finish
    origin: Origin
    response_id: str

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer. The last one of a choice has `reason`, the last one of all has `finish`."""

    delta: str
    origin: Origin
    response_id: str
    token_count: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0
    reason: str = ""
    finish: Finish | None = None


@dataclass(frozen=True)
class Target:
    """Whose weights answer: a deployment, a base model or an adapter revision, by resource name."""

    kind: str
    name: str

    DEPLOYMENT = "deployment"
    BASE_MODEL = "base_model"
    ADAPTER_REVISION = "adapter_revision"


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """A greedy continuation as the training recorded it, with its log-probabilities without and with the adapter."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] = field(default=())
    base_logprobs: tuple[float, ...] = field(default=())
    tuned_logprobs: tuple[float, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class ParityCertificate:
    """What the proof of a loaded adapter found. Deviations are means of absolute differences, per completion token.

    `deviation`: engine with the adapter against the training's record of it; `base_deviation`: the same without it;
    `effect`: engine with against engine without. `row_count` 0: nothing was recorded, only the effect is proved.
    """

    row_count: int
    token_count: int
    deviation_mean_nats: float
    deviation_max_nats: float
    base_deviation_mean_nats: float
    effect_mean_nats: float
    effect_max_nats: float
    tolerance_nats: float
    engine_version: str
    engine_dtype: str
    training_dtype: str
    check_time: float


@dataclass(frozen=True)
class Stage:
    """One stage of a deploy: fetch, verify, load, prove, publish."""

    name: str
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A loaded adapter's certificate, and how long each stage took to get it there."""

    certificate: ParityCertificate
    stages: tuple[Stage, ...] = ()


def cache_salt(tenant: str, loaded_adapter: str) -> str:
    """Keeps prefix caches apart by tenant and weights. The tag keeps it apart from any other salt (vllm 44701)."""
    return "luthier:v1:" + hashlib.sha256(f"{tenant}\0{loaded_adapter}".encode()).hexdigest()
