"""docs/metrics.md names every metric that a configuration can name."""

from __future__ import annotations

import pathlib
import re
import textwrap

import yaml
from luthier import config_files
from luthier.evaluator.v1.evaluation_pb2 import EvaluationConfig
from luthierd.evaluator.api import config_wire
from luthierd.evaluator.run.config_rules import check_config
from luthierd.evaluator.scorers.registry import known_metrics, spec_of

PAGE = pathlib.Path(__file__).parents[4] / "docs/metrics.md"


def test_the_configuration_on_the_page_can_be_used() -> None:
    written = textwrap.dedent(PAGE.read_text().partition("# how.yaml\n")[2].partition("\n\n")[0])
    config = config_wire.config_from_proto(config_files.load(yaml.safe_load(written), EvaluationConfig))
    check_config(config)
    assert [one.name for one in config.rubric] == ["helpful"]


def test_the_page_has_one_line_for_each_metric_that_can_be_named() -> None:
    lines = re.findall(r"^\| `(\w+)` \|", PAGE.read_text().partition("## Tasks")[0], re.MULTILINE)
    assert sorted(lines) == sorted(metric for metric in known_metrics() if not spec_of(metric).needs.suite)
