"""Which of a deployment's revisions answers a request: weights, and sessions that stay. Standard library only."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHARE_WEIGHT = 1_000_000


@dataclass(frozen=True)
class Share:
    """A revision's part of the requests: `weight` of the sum of all weights. Revisions are named by content."""

    sha256: str
    weight: int


def chosen(shares: Sequence[Share], *, deployment: str, session_id: str, rng: random.Random) -> str:
    """The sha256 of the revision that answers. There is a weight above 0.

    A session always gets the same one; without a session it is drawn. Weighted rendezvous hashing (Thaler and
    Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights by -w/ln(h), Schindelhauer and
    Schomaker, 2005): when a weight grows, sessions move only to its revision, and none between the others.
    """
    if not session_id:
        return rng.choices([share.sha256 for share in shares], [share.weight for share in shares])[0]

    def score(share: Share) -> float:
        digest = hashlib.sha256(f"{deployment}\0{session_id}\0{share.sha256}".encode()).digest()
        point = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
        return share.weight / -math.log(point)

    return max((share for share in shares if share.weight), key=score).sha256
