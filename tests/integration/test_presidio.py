"""The real scanner, in a process without the packages that other tests import."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

SAMPLE = pathlib.Path(os.environ.get("LUTHIER_PII_SAMPLE", "../shared/data/pii/presidio_synth_v2.json"))
"""Sentences with known spans, `[{"full_text", "spans": [{"entity_type", "start_position", "end_position"}]}]`."""

SCRIPT = """
import json, sys
from luthierd.curation.stages.pii import load_scanner
scanner = load_scanner()
finds = scanner.scan(json.load(sys.stdin))
assert "torch" not in sys.modules
print(json.dumps({"finds": finds, "entities": sorted(scanner.entities)}))
"""


def scan(texts: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=300
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("score", [0.5])
def test_what_identifies_a_person_is_found_and_what_looks_like_it_is_not(score: float) -> None:
    expected = {
        "mail ada@lovelace.internal now": "ada@lovelace.internal",
        "mail a.b+c@mail.example.co.uk": "a.b+c@mail.example.co.uk",
        "call 212-555-0147 or so": "212-555-0147",
        "call +44 20 7946 0958": "+44 20 7946 0958",
        "card 4111 1111 1111 1111": "4111 1111 1111 1111",
        "maestro 6759649826438453": "6759649826438453",
        "IBAN GB29 NWBK 6016 1331 9268 19": "GB29 NWBK 6016 1331 9268 19",
        "from 203.0.113.7": "203.0.113.7",
        "ssn 536-90-4399": "536-90-4399",
    }
    quiet = [
        "Its signature must be::\n    f(x)",
        "bind to 127.0.0.1",
        "order 6165551234567",
        "a 4111 1111 1111 1112 b",
        "x = 1e-10",
    ]
    result = scan([*expected, *quiet])
    masked = {"EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN"}
    assert masked <= set(result["entities"])
    for (text, value), found in zip(expected.items(), result["finds"], strict=False):
        spans = {text[start:end] for start, end, entity, sure in found if entity in masked and sure >= score}
        assert any(value in span for span in spans), (text, found)
    for text, found in zip(quiet, result["finds"][len(expected) :], strict=True):
        assert not [one for one in found if one[2] in masked and one[3] >= score], (text, found)


def test_a_text_that_slows_the_patterns_down_is_not_scanned_and_the_next_one_is() -> None:
    slow, long, usual = scan(["a." * 5000, "word " * 30_000, "mail ada@lovelace.internal"])["finds"]
    assert (slow, long) == (None, None)
    assert "EMAIL_ADDRESS" in [found[2] for found in usual]


def test_character_recall_on_the_sample_is_what_the_documentation_says() -> None:
    if not SAMPLE.exists():
        pytest.skip(f"no sample at {SAMPLE}; set LUTHIER_PII_SAMPLE")
    sample = json.loads(SAMPLE.read_text())
    finds = scan([one["full_text"] for one in sample])["finds"]
    held = {"EMAIL_ADDRESS": 0, "CREDIT_CARD": 0, "IBAN_CODE": 0, "IP_ADDRESS": 0, "US_SSN": 0, "PHONE_NUMBER": 0}
    total, seen, missed = 0, 0, dict(held)
    for one, found in zip(sample, finds, strict=True):
        covered = {i for start, end, _, score in found if score >= 0.5 for i in range(start, end)}
        masked = {i for start, end, kind, score in found if score >= 0.5 and kind in held for i in range(start, end)}
        truth = set()
        for span in one["spans"]:
            characters = set(range(span["start_position"], span["end_position"]))
            truth |= characters
            if span["entity_type"] in held:
                held[span["entity_type"]] += len(characters)
                missed[span["entity_type"]] += len(characters - masked)
        total += len(truth)
        seen += len(truth & covered)
    recall = {kind: 1 - missed[kind] / count for kind, count in held.items()}
    print(json.dumps({"character_recall": round(seen / total, 3), "masked": recall}))
    assert seen / total > 0.64
    assert min(recall[kind] for kind in ("EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "US_SSN")) == 1
    assert recall["CREDIT_CARD"] > 0.99
    assert recall["PHONE_NUMBER"] > 0.7
