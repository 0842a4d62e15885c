"""What an arm costs: latency percentiles, tokens, and the price of 1,000 answers from its share of
the seconds the machine was busy.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Answer
from luthierd.evaluator.domain.scores import ArmCost
from luthierd.evaluator.models.endpoints import Endpoint
from luthierd.statistics.clustered import CONFIDENCE
from luthierd.statistics.estimates import Interval


@dataclass(frozen=True)
class TokenPrice:
    """What somebody else's model costs, in units of currency per million tokens."""

    prompt_per_million: float
    completion_per_million: float

    def of(self, answers: Iterable[Answer]) -> float:
        """The price of these answers."""
        return (
            sum(
                answer.prompt_tokens * self.prompt_per_million + answer.completion_tokens * self.completion_per_million
                for answer in answers
            )
            / 1e6
        )


def token_price_of(endpoint: Endpoint) -> TokenPrice:
    """What the operator says that an endpoint costs."""
    return TokenPrice(endpoint.prompt_price_per_million, endpoint.completion_price_per_million)


def arm_costs(
    answers: Mapping[Arm, Sequence[Answer]],
    *,
    machine_price_per_hour: float,
    token_prices: Mapping[Arm, TokenPrice] | None = None,
) -> list[ArmCost]:
    """The costs of each arm. Failed queries took machine time and count in `busy_s`, not in latency or tokens. An
    answer that another evaluation paid for took none and was timed under another load: it counts in tokens only.
    An arm with a token price costs that, and no machine of ours.
    """
    prices = token_prices or {}
    spans = {
        arm: [(one.start_s, one.start_s + one.total_s) for one in given if not one.is_cached]
        for arm, given in answers.items()
    }
    busy_s = shared_s({arm: own for arm, own in spans.items() if arm not in prices})
    busy_s |= {arm: union_s(own) for arm, own in spans.items() if arm in prices}
    return [
        _arm_cost(arm, given, busy_s[arm], machine_price_per_hour, prices.get(arm)) for arm, given in answers.items()
    ]


def _arm_cost(
    arm: Arm, answers: Sequence[Answer], busy_s: float, machine_price_per_hour: float, token_price: TokenPrice | None
) -> ArmCost:
    answered = [answer for answer in answers if answer.error is None]
    asked = [answer for answer in answers if not answer.is_cached]
    timed = [answer for answer in asked if answer.error is None]
    first_ms = [1000 * answer.ttft_s for answer in timed]
    total_ms = [1000 * answer.total_s for answer in timed]
    cost = token_price.of(timed) if token_price else busy_s / 3600 * machine_price_per_hour
    return ArmCost(
        arm=arm,
        answered_count=len(answered),
        failed_count=len(answers) - len(answered),
        ttft_ms_p50=percentile(first_ms, 50),
        latency_ms_p50=percentile(total_ms, 50),
        latency_ms_p95=percentile(total_ms, 95),
        prompt_tokens_mean=_mean([answer.prompt_tokens for answer in answered]),
        completion_tokens_mean=_mean([answer.completion_tokens for answer in answered]),
        busy_s=busy_s,
        cost_per_1000_answers=1000 * cost / len(timed) if timed else 0.0,
        cached_count=len(answers) - len(asked),
        ttft_ms_p50_interval=quantile_interval(first_ms, 50),
        latency_ms_p50_interval=quantile_interval(total_ms, 50),
        latency_ms_p95_interval=quantile_interval(total_ms, 95),
    )


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of time spans: overlapping queries share the machine, and a pause after a crash is not
    counted.
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def shared_s(spans: Mapping[Arm, Sequence[tuple[float, float]]]) -> dict[Arm, float]:
    """Each arm's share of the seconds in which anything was in flight: at every moment in proportion to its spans then
    open. The shares add up to `union_s` of all spans.
    """
    edges = [(edge, arm) for arm, own in spans.items() for start, stop in own for edge in ((start, 1), (stop, -1))]
    found, open_spans, last = dict.fromkeys(spans, 0.0), dict.fromkeys(spans, 0), 0.0
    for (at, change), arm in sorted(edges):
        total = sum(open_spans.values())
        if total:
            for one, count in open_spans.items():
                found[one] += (at - last) * count / total
        open_spans[arm] += change
        last = at
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """Linear interpolation between closest ranks, as numpy's default; 0 without values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def quantile_interval(values: Sequence[float], percent: int) -> Interval | None:
    """A distribution-free 95 % interval of a percentile: the order statistics that it lies between (David & Nagaraja,
    "Order Statistics", 7.1). None where so few values do not bound it on both sides.
    """
    count, tail = len(values), (1 - CONFIDENCE) / 2
    below = special.bdtr(np.arange(count), count, percent / 100) if count else np.array([])
    low, high = int(np.searchsorted(below, tail, side="right")) - 1, int(np.searchsorted(below, 1 - tail))
    if low < 0 or high >= count:
        return None
    ordered = sorted(values)
    return Interval(ordered[low], ordered[high], "order statistics", count)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
