"""What is served under which name, how its requests are split, and how that may change."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthierd.inference.domain.errors import NoCandidateError, NoPreviousError, RevisionNotHeldError

MAX_SHARE_WEIGHT = 1_000_000


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
        """The id of the loaded adapter. It is made of the content digest, so equal weights share one id."""
        return f"g-{self.sha256[:20]}"


@dataclass(frozen=True)
class Share:
    """A revision's share of the requests: `weight` of the sum of all weights. Revisions are named by content."""

    sha256: str
    weight: int


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A stable name and the revisions behind it. Every change is a new value; `revision` counts those of routing."""

    name: str
    create_time: float
    update_time: float
    revision: int = 0
    change: int = 0
    """Counts all changes, including those that do not change routing; the etag depends on it."""
    live: AdapterRevision | None = None
    candidate: AdapterRevision | None = None
    previous: AdapterRevision | None = None
    is_pinned: bool = False
    shares: tuple[Share, ...] = ()
    """How requests are split over the held revisions; empty: all go to `live`."""
    mirror_sha256: str = ""
    """The held revision that answers copies; empty: none."""

    @property
    def etag(self) -> str:
        return hashlib.sha256(f"{self.name}\0{self.create_time}\0{self.change}".encode()).hexdigest()[:16]

    @property
    def held(self) -> tuple[AdapterRevision, ...]:
        """The revisions that requests may reach now or after a promotion or rollback."""
        return tuple(one for one in (self.live, self.candidate, self.previous) if one)

    @property
    def distinct(self) -> tuple[AdapterRevision, ...]:
        """The held revisions, equal weights once."""
        return tuple({one.sha256: one for one in self.held}.values())

    def holding(self, sha256: str) -> AdapterRevision | None:
        return next((one for one in self.held if one.sha256 == sha256), None)

    @property
    def routed(self) -> tuple[AdapterRevision, ...]:
        """The revisions that get requests, or copies of them, now."""
        wanted = {share.sha256 for share in self.shares if share.weight} | {self.mirror_sha256}
        if not self.shares and self.live is not None:
            wanted.add(self.live.sha256)
        return tuple(one for one in self.distinct if one.sha256 in wanted)

    def stage(self, candidate: AdapterRevision, now: float) -> Deployment:
        """With `candidate` loaded but not routed to; all requests go to `live`. Ending a split is a new revision."""
        return self._changed(now, routing=bool(self.shares), candidate=candidate, shares=(), mirror_sha256="")

    def split(self, shares: tuple[Share, ...], mirror_sha256: str, now: float) -> Deployment:
        """With requests split over held revisions. RevisionNotHeldError."""
        for sha256 in (*(share.sha256 for share in shares), mirror_sha256):
            if sha256 and self.holding(sha256) is None:
                raise RevisionNotHeldError(deployment=self.name, revision=sha256)
        return self._changed(now, shares=shares, mirror_sha256=mirror_sha256)

    def route(self, live: AdapterRevision, now: float) -> Deployment:
        """With all requests going to `live`; the revision that was live is now the previous one."""
        candidate = None if self.candidate and self.candidate.sha256 == live.sha256 else self.candidate
        return self._changed(now, live=live, previous=self.live, candidate=candidate, shares=(), mirror_sha256="")

    def pin(self, now: float, *, is_pinned: bool) -> Deployment:
        """With all held revisions kept in memory, or no longer."""
        return self._changed(now, routing=False, is_pinned=is_pinned)

    def promote(self, now: float) -> Deployment:
        """With the candidate live. NoCandidateError."""
        if self.candidate is None:
            raise NoCandidateError(deployment=self.name)
        return self.route(self.candidate, now)

    def roll_back(self, now: float) -> Deployment:
        """With the previous revision live, and the live one as the previous. NoPreviousError."""
        if self.previous is None:
            raise NoPreviousError(deployment=self.name)
        return self.route(self.previous, now)

    def _changed(self, now: float, *, routing: bool = True, **fields: Any) -> Deployment:
        return replace(self, revision=self.revision + routing, change=self.change + 1, update_time=now, **fields)


def chosen(shares: Sequence[Share], *, deployment: str, session_id: str, rng: random.Random) -> str:
    """The sha256 of the revision that answers. At least one weight is above 0.

    A session always gets the same one; without a session it is drawn at random. Weighted rendezvous hashing (Thaler and
    Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights by -w/ln(h), Schindelhauer and
    Schomaker, 2005): when a weight grows, sessions only move to its revision, and none move between the others.
    """
    if not session_id:
        return rng.choices([share.sha256 for share in shares], [share.weight for share in shares])[0]

    def score(share: Share) -> float:
        digest = hashlib.sha256(f"{deployment}\0{session_id}\0{share.sha256}".encode()).digest()
        point = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
        return share.weight / -math.log(point)

    return max((share for share in shares if share.weight), key=score).sha256
