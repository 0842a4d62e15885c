"""docs/metrics.md names every metric that a configuration can name."""

from __future__ import annotations

import pathlib
import re

from luthierd.evaluator.metrics import Metric

PAGE = pathlib.Path(__file__).parents[3] / "docs/metrics.md"


def test_the_page_has_one_line_for_each_metric_that_can_be_named() -> None:
    lines = re.findall(r"^\| `(\w+)` \|", PAGE.read_text().partition("## Tasks")[0], re.MULTILINE)
    assert sorted(lines) == sorted(metric.value for metric in Metric if not metric.needs.suite)
