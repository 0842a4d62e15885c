"""A result: one ratio, with the medians of both sides."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def ratio(benchmark: str, name: str, pairs: Sequence[tuple[float, float]], *, target: str) -> dict[str, object]:
    """`pairs`: our value and the peer's, per round. The ratio is the median of the rounds' ratios; NaN over a zero."""
    return {
        "benchmark": benchmark,
        "ratio_of": name,
        "ratio": round(statistics.median(figure / peer if peer else float("nan") for figure, peer in pairs), 3),
        "target": target,
        "figure": round(statistics.median(figure for figure, _ in pairs), 3),
        "peer_figure": round(statistics.median(peer for _, peer in pairs), 3),
        "rounds": len(pairs),
    }
