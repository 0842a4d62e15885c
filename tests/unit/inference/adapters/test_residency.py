"""Who leaves memory first."""

from __future__ import annotations

from luthierd.inference.adapters.residency import GreedyDual, Worth


def evicted(policy: GreedyDual, worths: dict[str, Worth]) -> str:
    """The one that leaves now."""
    name = min(worths, key=lambda name: worths[name])
    policy.evict(worths.pop(name))
    return name


def test_with_equal_costs_the_least_recently_used_leaves() -> None:
    policy, worths = GreedyDual(), {name: Worth() for name in "abc"}
    for name in "abcab":
        policy.use(worths[name], 1.0)
    assert [evicted(policy, worths) for _ in range(3)] == ["c", "a", "b"]


def test_what_is_dear_to_bring_back_stays_longer_but_not_for_ever() -> None:
    policy, dear = GreedyDual(), Worth()
    policy.use(dear, 3.5)
    order = []
    for round_ in range(5):
        worths = {"dear": dear, f"cheap-{round_}": Worth()}
        policy.use(worths[f"cheap-{round_}"], 1.0)
        order.append(evicted(policy, worths))
        if "dear" not in worths:
            break
    assert order == ["cheap-0", "cheap-1", "cheap-2", "dear"]
