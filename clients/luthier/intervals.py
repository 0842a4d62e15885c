"""An estimate with its interval, as text: for the command line and for gates' reports."""

from __future__ import annotations

import math


def interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    """A number is not shown without its interval, or without saying that there is none (a NaN for `low`)."""
    return f"{value:{form}} (no interval)" if math.isnan(low) else f"{value:{form}} [{low:{form}}, {high:{form}}]"
