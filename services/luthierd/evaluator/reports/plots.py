"""The report's plots as inline SVG: a forest plot of paired differences, and cost against quality. No library, no
script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup, escape

from luthierd.evaluator.domain.arm import Arm

# Colours are CSS classes (`arm-base`, ...), so that the page's dark theme reaches the plots.
WIDTH = 760
LINE_HEIGHT = 24
GROUP_GAP = 12
LABEL_WIDTH = 250
NUMBER_WIDTH = 170


@dataclass(frozen=True)
class ForestLine:
    """One difference: `group` is its metric, `interval` None where there is none."""

    group: str
    arm: Arm
    label: str
    difference: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class PlanePoint:
    """One arm: cost on x, quality on y."""

    arm: Arm
    label: str
    cost: float
    quality: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values inside the axis."""
        step = _round_step((self.high - self.low) / count)
        first = -(-self.low // step)
        return [round(step * i, 10) for i in range(int(first), int(self.high / step + 1e-9) + 1)]


def forest_plot(lines: Sequence[ForestLine]) -> Markup:
    """Differences with their intervals around zero; right of the line the adapter is better. Empty without lines."""
    if not lines:
        return Markup()
    ends = [value for line in lines for value in (line.interval or (line.difference,))] + [0.0]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    axis = Axis(min(ends) - margin, max(ends) + margin, LABEL_WIDTH, WIDTH - NUMBER_WIDTH)
    parts: list[Markup] = []
    y = 34.0
    for _, members in groupby(lines, key=lambda line: line.group):
        for position, line in enumerate(members):
            parts.append(_forest_line(line, axis, y, show_group=position == 0))
            y += LINE_HEIGHT
        y += GROUP_GAP
    height = y + 6
    zero = axis.at(0.0)
    frame = [
        _text(axis.start, 12, "worse", css="axis"),
        _text(axis.end, 12, "better", css="axis", anchor="end"),
        Markup('<line class="zero" x1="{0:.1f}" y1="18" x2="{0:.1f}" y2="{1:.1f}"/>').format(zero, height - 22),
    ]
    for tick in axis.ticks(6):
        frame.append(_text(axis.at(tick), height - 6, f"{tick:+.2g}" if tick else "0", css="axis", anchor="middle"))
    return _svg(height, "Paired differences between the adapter and the other arms", [*frame, *parts])


def _forest_line(line: ForestLine, axis: Axis, y: float, *, show_group: bool) -> Markup:
    parts = [_text(0, y + 4, line.group, css="strong")] if show_group else []
    parts.append(_text(LABEL_WIDTH - 14, y + 4, line.label, css="label", anchor="end"))
    number = f"{line.difference:+.3f}"
    if line.interval:
        low, high = line.interval
        css = "sure" if low > 0 or high < 0 else "unsure"
        parts.append(
            Markup('<line class="whisker {0}" x1="{1:.1f}" y1="{3:.1f}" x2="{2:.1f}" y2="{3:.1f}"/>').format(
                css, axis.at(low), axis.at(high), y
            )
        )
        number += f"  [{low:+.3f}, {high:+.3f}]"
    parts.append(_dot(line.arm, axis.at(line.difference), y, radius=5))
    parts.append(_text(WIDTH, y + 4, number, css="number", anchor="end"))
    return Markup().join(parts)


def cost_quality_plane(points: Sequence[PlanePoint], *, quality_label: str) -> Markup:
    """Every arm as a point with its interval; up and left is better. Empty without points."""
    if not points:
        return Markup()
    height = 380.0
    most = max(point.cost for point in points) or 1.0
    top = max(point.interval[1] if point.interval else point.quality for point in points)
    x = Axis(0.0, most * 1.22, 64, WIDTH - 16)
    y = Axis(0.0, min(1.0, top * 1.15) or 1.0, height - 52, 16)
    parts: list[Markup] = []
    for tick in y.ticks(5):
        parts.append(_line("grid", x.start, y.at(tick), x.end, y.at(tick)))
        parts.append(_text(x.start - 10, y.at(tick) + 4, f"{tick:g}", css="axis", anchor="end"))
    for tick in x.ticks(6):
        parts.append(_text(x.at(tick), height - 30, f"{tick:g}", css="axis", anchor="middle"))
    parts.append(_text((x.start + x.end) / 2, height - 6, "cost of 1,000 answers", css="axis", anchor="middle"))
    parts.append(_text(x.start, 10, quality_label, css="axis"))
    for point in points:
        px, py = x.at(point.cost), y.at(point.quality)
        if point.interval:
            parts.append(_line(f"whisker stroke-{point.arm}", px, y.at(point.interval[0]), px, y.at(point.interval[1])))
        parts.append(_dot(point.arm, px, py, radius=7))
        parts.append(_text(px + 12, py + 4, point.label, css="strong"))
    return _svg(height, f"Cost of 1,000 answers against {quality_label}", parts)


def _svg(height: float, title: str, parts: Sequence[Markup]) -> Markup:
    opening = Markup('<svg viewBox="0 0 {0} {1:.0f}" role="img" aria-label="{2}">').format(WIDTH, height, title)
    return opening + Markup("\n").join(parts) + Markup("</svg>")


def _text(x: float, y: float, text: str, *, css: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{0}" x="{1:.1f}" y="{2:.1f}" text-anchor="{3}">{4}</text>').format(
        css, x, y, anchor, escape(text)
    )


def _dot(arm: Arm, x: float, y: float, *, radius: int) -> Markup:
    return Markup('<circle class="arm-{0}" cx="{1:.1f}" cy="{2:.1f}" r="{3}"/>').format(arm, x, y, radius)


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{0}" x1="{1:.1f}" y1="{2:.1f}" x2="{3:.1f}" y2="{4:.1f}"/>').format(css, x1, y1, x2, y2)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** int(f"{rough:e}".split("e")[1])
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
