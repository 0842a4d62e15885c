"""A bounded number of places that nobody can keep from others: for connections, and for streams without a token.

Refusing newcomers once all places are taken would let the first to come lock out everybody else. So a newcomer gets
in, and the owner (a peer's address, a tenant) that has most places gives up the one that it has held longest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Place:
    """What `owner` holds. `give_up` ends it; `is_idle`: it may be asked to."""

    owner: str
    give_up: Callable[[], object]
    is_idle: bool = True


class Places:
    """At most `count` places. `can_be_cut`: a newcomer may also get one that is in use, if none is idle."""

    def __init__(self, count: int, *, can_be_cut: bool = False) -> None:
        self._count, self._can_be_cut = count, can_be_cut
        self._taken: dict[str, dict[Place, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._taken.values()))

    def enter(self, place: Place) -> bool:
        """Takes a place. False if all are taken and none of them can be given up."""
        if len(self) >= self._count and not self.clear_one():
            return False
        self._taken.setdefault(place.owner, {})[place] = None
        return True

    def leave(self, place: Place) -> None:
        """Frees the place. No effect if it was freed before."""
        own = self._taken.get(place.owner, {})
        own.pop(place, None)
        if not own:
            self._taken.pop(place.owner, None)

    def rest(self, place: Place) -> None:
        """The place is idle from now on: the owner's others go first."""
        own = self._taken.get(place.owner, {})
        if place in own:
            own[place] = own.pop(place)

    def clear_one(self) -> bool:
        """Has the owner with most places give up one: an idle one, or else one in use if these `can_be_cut`."""
        for wanted in (True, False) if self._can_be_cut else (True,):
            for own in sorted(self._taken.values(), key=len, reverse=True):
                for place in own:
                    if place.is_idle is wanted:
                        self.leave(place)
                        place.give_up()
                        return True
        return False
