"""Durations as people type them."""

from __future__ import annotations

import re

import click

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, *, option: str) -> float:
    """The seconds of `3600s`, `90m`, `12h` or `30d`; `click.BadParameter` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise click.BadParameter(
            f"'{text}' is not a duration; write a number and s, m, h or d, e.g. 90d", param_hint=option
        )
    return float(match[1]) * _UNITS_S[match[2]]
