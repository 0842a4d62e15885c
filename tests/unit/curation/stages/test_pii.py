"""Masking, dropping and counting personal data, with a scanner of known finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from luthierd.curation.domain import Row, Span
from luthierd.curation.stages.pii import Pii, PiiAction, PiiSettings, mask_text, merge_spans
from luthierd.curation.stages.stage import Applied
from support.curation_material import MailScanner, apply, row

MAIL_ROW = row(1, prompt="Write to ada@corp.example, says Ada", completion="To ada@corp.example.")


def treat(*rows: Row, **settings: Any) -> Applied:
    return apply(Pii(PiiSettings(**settings), MailScanner()), rows)


def answers_of(result: Applied) -> tuple[int, int]:
    return result.findings["completions_masked_count"], result.findings["completions_underivable_count"]


def test_what_identifies_is_masked_and_names_are_only_counted() -> None:
    result = treat(MAIL_ROW, row(2))
    assert [message.content for message in result.rows[0].messages] == [
        "Write to <EMAIL_ADDRESS>, says Ada",
        "To <EMAIL_ADDRESS>.",
    ]
    assert [(c.row_id, c.is_dropped, c.reason) for c in result.changes] == [("row-1", False, "masked_EMAIL_ADDRESS")]
    assert result.findings["found"] == {
        "EMAIL_ADDRESS": {"span_count": 2, "row_count": 1},
        "PERSON": {"span_count": 1, "row_count": 1},
    }
    assert result.findings["masked_span_count"] == {"EMAIL_ADDRESS": 2}
    assert result.findings["masked_character_count"] == 2 * len("ada@corp.example")
    assert answers_of(result) == (1, 0)


def test_an_answer_masked_in_a_value_that_its_prompt_lacks_counts_as_underivable() -> None:
    result = treat(row(1, prompt="Who answers?", completion="grace@corp.example"))
    assert answers_of(result) == (1, 1)


def test_reporting_leaves_rows_as_they_are() -> None:
    result = treat(MAIL_ROW, action=PiiAction.REPORT)
    assert (result.rows, result.changes) == ([MAIL_ROW], [])
    assert result.findings["found"]["EMAIL_ADDRESS"]["span_count"] == 2


def test_dropping_drops_only_rows_with_the_named_types() -> None:
    result = treat(MAIL_ROW, row(2, prompt="Ada", completion="Ada"), action=PiiAction.DROP)
    assert [one.id for one in result.rows] == ["row-2"]
    assert result.changes[0].reason == "holds_EMAIL_ADDRESS"


def test_finds_below_the_minimum_score_do_not_count() -> None:
    result = treat(MAIL_ROW, entities=("PERSON",), min_score=0.9)
    assert result.rows == [MAIL_ROW]
    assert "PERSON" not in result.findings["found"]


def test_a_masked_value_is_masked_wherever_the_row_repeats_it() -> None:
    class FirstOnly(MailScanner):
        def scan(self, texts: list[str]) -> list[list[Span]]:  # type: ignore[override]
            return [
                [span for span in found if text.startswith("From")]
                for text, found in zip(texts, super().scan(texts), strict=True)
            ]

    mail = row(1, prompt="From grace@corp.example", completion='{"to": "grace@corp.example"}')
    result = apply(Pii(PiiSettings(), FirstOnly()), [mail])
    assert result.rows[0].completion == '{"to": "<EMAIL_ADDRESS>"}'


@pytest.mark.parametrize("action", PiiAction)
def test_a_row_that_cannot_be_scanned_is_dropped_unless_rows_are_only_reported_on(action: PiiAction) -> None:
    class Slow(MailScanner):
        def scan(self, texts: Sequence[str]) -> list[list[Span] | None]:  # type: ignore[override]
            return [None if text == "slow" else [] for text in texts]

    result = apply(Pii(PiiSettings(action=action), Slow()), [row(1, prompt="slow"), row(2)])
    kept = ["row-1", "row-2"] if action is PiiAction.REPORT else ["row-2"]
    assert [one.id for one in result.rows] == kept
    assert [(change.row_id, change.reason) for change in result.changes] == [("row-1", "not_scanned")][len(kept) - 1 :]
    assert result.findings["unscanned_row_count"] == 1
    assert "1 rows could not be scanned" in result.page


def test_equal_texts_are_scanned_once_in_a_batch() -> None:
    scanner = MailScanner()
    rows = [row(i, prompt="the same instruction", completion=f"{i}") for i in range(10)]
    apply(Pii(PiiSettings(), scanner), rows)
    assert scanner.text_count == 11


def test_overlapping_spans_become_one_of_the_surest_type() -> None:
    spans = [Span(5, 9, "B", 0.9), Span(0, 6, "A", 0.5), Span(9, 12, "C", 0.6)]
    merged = merge_spans(spans)
    assert merged == [Span(0, 9, "B", 0.9), Span(9, 12, "C", 0.6)]
    assert mask_text("0123456789abcdef", merged) == "<B><C>cdef"
