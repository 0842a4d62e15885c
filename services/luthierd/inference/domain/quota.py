"""What a tenant may use, and how its rates are metered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one tenant; 0: no limit. `weight` is above 0."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_requests: int = 0
    deployed_adapters: int = 0
    weight: float = 1.0
    """Share of the engine under contention, relative to the other tenants' weights."""


LIMIT_NAMES = tuple(one.name for one in fields(Limits))


@dataclass(frozen=True, kw_only=True)
class Quota:
    """`tenants/{t}/quota`: the limits set for a tenant; the others are the server's defaults."""

    name: str
    own: Mapping[str, float] = field(default_factory=dict)
    """By the names of `Limits`."""
    update_time: float = 0.0
    """0: never changed."""
    change: int = 0

    @property
    def etag(self) -> str:
        return hashlib.sha256(f"{self.name}\0{self.update_time}\0{self.change}".encode()).hexdigest()[:16]

    def changed(self, changes: Mapping[str, float | None], now: float) -> Quota:
        """With new values; None resets to the default."""
        own = {name: value for name, value in (dict(self.own) | dict(changes)).items() if value is not None}
        return replace(self, own=own, update_time=now, change=self.change + 1)

    @property
    def own_limits(self) -> dict[str, Any]:
        """`own` in the types of `Limits`: whole numbers, but for the weight."""
        return {name: float(value) if name == "weight" else int(value) for name, value in self.own.items()}

    def limits(self, defaults: Limits) -> Limits:
        return replace(defaults, **self.own_limits)


class RateMeter:
    """A token bucket of one minute's allowance, stored as the debt that still has to be paid off.

    So a change of the allowance needs no conversion, and a meter without debt equals a new one. An amount above a whole
    minute's allowance passes when there is no debt, and is paid off before the next one passes.
    """

    def __init__(self, now: float) -> None:
        self._debt, self._at = 0.0, now

    def debt(self, per_minute: int, now: float) -> float:
        """What is still unpaid at `now`."""
        self._debt = max(0.0, self._debt - (now - self._at) * per_minute / SECONDS_PER_MINUTE)
        self._at = now
        return self._debt

    def wait_s(self, amount: float, per_minute: int, now: float) -> float:
        """Seconds until `amount` may be taken; 0: at once."""
        excess = self.debt(per_minute, now) + min(amount, per_minute) - per_minute
        return max(0.0, excess * SECONDS_PER_MINUTE / per_minute)

    def take(self, amount: float) -> None:
        """Adds to the debt; a negative amount returns what was not used."""
        self._debt = max(0.0, self._debt + amount)
