"""The name of a metric, and the names that rules refer to.

A metric is added in one file of `scorers/`; docs/metrics.md says what each means. Scores run from 0 to 1, higher is
better.
"""

from __future__ import annotations

from typing import NewType

Metric = NewType("Metric", str)

EXACT_MATCH = Metric("exact_match")
JSON_VALID = Metric("json_valid")
LABEL_ACCURACY = Metric("label_accuracy")
LABEL_F1_MACRO = Metric("label_f1_macro")
ROUGE_L = Metric("rouge_l")
CHRF = Metric("chrf")
JSON_SCHEMA_VALID = Metric("json_schema_valid")
FIELD_F1 = Metric("field_f1")
CHOICE_ACCURACY = Metric("choice_accuracy")
STYLE = Metric("style")
STYLE_JUDGED = Metric("style_judged")
RUBRIC = Metric("rubric")
PAIRWISE = Metric("pairwise")
