"""How far a holdout can be trusted: how often it was used, and what repeats its rows. Stdlib only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

FALSE_GO_PROBABILITY = 0.05
"""Bound on the chance of a GO for an adapter that is no better, per access: a gate's level."""
OVERUSED_BOUND = 0.5
"""From here on a GO is as likely luck as not."""
# Curation's default `near_duplicate_threshold`: a dataset that was curated with the defaults is never rejected.
REFUSED_SIMILARITY = 0.85
FINAL_SHARE = 0.2
MIN_FINAL_GROUPS = 10
"""With fewer, intervals cover too little (docs/decisions/0007): such a holdout keeps nothing back."""


@dataclass(frozen=True)
class HoldoutUse:
    """How often a holdout showed results. `final_row_count` is 0 where it is too small for a final slice."""

    access_count: int = 0
    final_row_count: int = 0

    @property
    def false_go_bound(self) -> float:
        """Bonferroni's bound on the chance of at least one false GO. It holds for choices that depend on earlier
        outcomes, as long as one stops at the first GO: until then every outcome was NO-GO, so what is tried next was
        fixed in advance (Blum & Hardt 2015, "The Ladder"). Results of single rows tell more, and it is then too low.
        """
        return min(1.0, self.access_count * FALSE_GO_PROBABILITY)

    @property
    def is_overused(self) -> bool:
        return self.false_go_bound >= OVERUSED_BOUND

    @property
    def warning(self) -> str:
        """A sentence to show with a GO; empty for a fresh holdout."""
        if not self.is_overused:
            return ""
        return (
            f"this holdout has shown results {self.access_count} times: the chance of at least one false GO is up to "
            f"{self.false_go_bound:.0%}; decide on its final slice (--final) or on new rows"
        )


@dataclass(frozen=True)
class LeakageFinding:
    """A pair. `kind`: `same_id`, `verbatim`, `normalised`, `embedded` or `near_duplicate`; `similarity`: Jaccard of the
    3-word shingles, 1 for the other kinds.
    """

    kind: str
    row_id: str
    other_id: str
    other_set: str
    similarity: float = 1.0

    @property
    def is_refused(self) -> bool:
        return self.kind != "near_duplicate" or self.similarity >= REFUSED_SIMILARITY


@dataclass(frozen=True)
class LeakageReport:
    """What was found and let pass: some pairs, most alike first, and how many there are of each kind."""

    findings: tuple[LeakageFinding, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


def final_groups(groups: set[str]) -> set[str]:
    """The groups of the final slice: those whose hash lies in the lowest fifth, so that a group is in the slice of
    every revision or of none. Empty if there are fewer than MIN_FINAL_GROUPS of them.
    """
    found = {group for group in groups if _place(group) < FINAL_SHARE}
    return found if len(found) >= MIN_FINAL_GROUPS else set()


def _place(group: str) -> float:
    digest = hashlib.sha256(f"luthier final slice\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
