"""Places that nobody can keep from others."""

from __future__ import annotations

from luthierd.rpc.places import Place, Places


class Held:
    """Places by name, and which of them were given up, in order."""

    def __init__(self, count: int, *, can_be_cut: bool = False) -> None:
        self.places = Places(count, can_be_cut=can_be_cut)
        self.given_up: list[str] = []

    def enter(self, name: str, *, is_idle: bool = True) -> Place | None:
        """`name` is the owner and a number: `a1`."""
        place = Place(name[0], lambda: self.given_up.append(name), is_idle)
        return place if self.places.enter(place) else None


def test_the_owner_with_most_places_gives_up_its_oldest() -> None:
    held = Held(4)
    for name in ("b1", "a1", "a2", "a3"):
        held.enter(name)
    held.enter("c1")
    held.enter("b2")
    assert held.given_up == ["a1", "a2"]
    assert len(held.places) == 4


def test_a_flood_of_one_owner_takes_its_own_places_only() -> None:
    held = Held(4)
    held.enter("b1")
    for number in range(9):
        held.enter(f"a{number}")
    assert "b1" not in held.given_up


def test_what_is_in_use_is_not_given_up() -> None:
    held = Held(2)
    held.enter("a1", is_idle=False)
    held.enter("a2")
    assert held.enter("b1")
    assert held.given_up == ["a2"]
    last = held.enter("b2", is_idle=False)  # in place of b1
    assert last is not None
    assert held.enter("c1") is None
    last.is_idle = True
    assert held.enter("c1")


def test_what_is_in_use_goes_last_where_it_may_be_cut() -> None:
    held = Held(2, can_be_cut=True)
    held.enter("a1", is_idle=False)
    held.enter("a2")
    held.enter("b1", is_idle=False)
    assert held.given_up == ["a2"]
    assert held.enter("c1")
    assert held.given_up == ["a2", "a1"]


def test_what_was_used_last_goes_last() -> None:
    held = Held(2)
    first = held.enter("a1")
    held.enter("a2")
    assert first is not None
    held.places.rest(first)
    held.enter("a3")
    assert held.given_up == ["a2"]


def test_a_place_is_freed_once() -> None:
    held = Held(1)
    first = held.enter("a1")
    assert first is not None
    held.places.leave(first)
    held.places.leave(first)
    held.places.rest(first)
    assert len(held.places) == 0
    held.enter("b1")
    assert held.given_up == []
