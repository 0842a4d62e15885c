"""The triangle of holdout, training rows and retrieval index: what of a holdout the other two know, with evidence.

Found and refused: the same id, the same text (also in other case, punctuation and line breaks), question and answer
both inside a longer text, and texts whose runs of three words are at least .85 alike. Texts that are .5 to .85 alike
are tolerated and reported. A paraphrase shares few runs of words and is not found.

Nothing is estimated. A prefix filter (Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007) proposes every pair
that can be alike enough to be refused, and each is then computed exactly from the texts. Pairs that are only reported
are proposed by runs of words that are rare in the holdout. Memory grows with the holdout only.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain.holdout import REFUSED_SIMILARITY, LeakageFinding, LeakageReport
from luthierd.evaluator.domain.rows import Row
from luthierd.text import jaccard, shingles, words

REPORTED_SIMILARITY = 0.5
"""Half of all runs of words in common: a reader calls such texts variants of each other."""
MAX_REPORTED = 100
MAX_REFUSED_PAIRS = 1000
"""The check ends here: a copied holdout has pairs without end, and more of them say nothing new."""
MAX_KEPT_PAIRS = 10_000
RARE_ROWS = 100
"""Runs of words in more rows of the holdout than this are its boilerplate, and propose no pair to report."""
SHINGLE_CACHE_ROWS = 8192
"""About 10 kB a row."""
MAX_EVIDENCE = 10
"""Pairs in an error: a status has room for 8 KB."""


@dataclass(frozen=True)
class Document:
    """Something that could know a holdout row. `answer` is empty for a passage."""

    id: str
    question: str
    answer: str = ""

    @property
    def text(self) -> str:
        return f"{self.question}\n{self.answer}" if self.answer else self.question


class LeakageError(FailedPreconditionError):
    """A row to be evaluated is known: the adapter was trained on it, or it can be retrieved."""

    reason = "HOLDOUT_LEAKAGE"

    def __init__(self, findings: Sequence[LeakageFinding], refused_count: int) -> None:
        worst = findings[0]
        others = f" and {refused_count - 1} more" if refused_count > 1 else ""
        evidence = [asdict(found) for found in findings[:MAX_EVIDENCE]]
        super().__init__(
            f"holdout row {worst.row_id!r} is in {worst.other_set!r} as {worst.other_id!r} ({worst.kind}, similarity "
            f"{worst.similarity:.2f}){others}: its answer would be learned or retrieved; curate the dataset again so "
            "that duplicates stay on one side of the split",
            metadata={
                "row": worst.row_id,
                "other": worst.other_id,
                "other_set": worst.other_set,
                "kind": worst.kind,
                "similarity": f"{worst.similarity:.2f}",
                "refused_count": str(refused_count),
                "evidence": json.dumps(evidence, ensure_ascii=False),
            },
        )


def document_of(row: Row) -> Document:
    """A row as what it says: every turn but the system's, which is often the same in all rows, and the reference."""
    return Document(row.id, "\n".join(turn.content for turn in row.prompt if turn.role != "system"), row.reference)


def check_leakage(holdout: Iterable[Row], others: Mapping[str, Iterable[Document]]) -> LeakageReport:
    """What of `holdout` the named sets know; LeakageError with evidence if any of it is to be refused.

    Holds the CPU (60,000 rows of 60 words: some ten seconds): call it in a thread.
    """
    index = _HoldoutIndex([document_of(row) for row in holdout])
    found: list[LeakageFinding] = []
    counts: Counter[str] = Counter()
    refused: list[LeakageFinding] = []
    everything = ((document, name) for name, documents in others.items() for document in documents)
    for document, name in everything:
        for finding in index.findings(document, name):
            counts[finding.kind] += 1
            if finding.is_refused:
                refused.append(finding)
            elif len(found) < MAX_KEPT_PAIRS:
                found.append(finding)
        if len(refused) >= MAX_REFUSED_PAIRS:
            break
    if refused:
        raise LeakageError(sorted(refused, key=lambda finding: -finding.similarity), len(refused))
    found.sort(key=lambda finding: -finding.similarity)
    return LeakageReport(tuple(found[:MAX_REPORTED]), dict(counts))


def refuse_leakage(train: Iterable[Row], holdout: Iterable[Row]) -> None:
    """LeakageError if a row of `train` gives a row of `holdout` away."""
    check_leakage(holdout, {"train": map(document_of, train)})


class _HoldoutIndex:
    """The holdout by id, by words, and by the rarest shingles of each row."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._by_id = {document.id: position for position, document in enumerate(documents)}
        self._by_words: dict[str, list[int]] = defaultdict(list)
        for position, document in enumerate(documents):
            self._by_words[_words_of(document.text)].append(position)
        self._by_shingle = self._rarest_shingles()
        self._shingles_at = functools.lru_cache(SHINGLE_CACHE_ROWS)(self._make_shingles)

    def _make_shingles(self, position: int) -> frozenset[str]:
        return _shingles(_words_of(self._documents[position].text))

    def _rarest_shingles(self) -> dict[str, list[int]]:
        """Shingle -> rows of which it is among the rarest. Texts at least `t` alike share at least that part of the
        row's n shingles, so one of any n - ceil(t n) + 1 of them; a text that holds the whole question (or, of a short
        one, the whole answer) holds its rarest shingle.
        """
        frequency = Counter(
            shingle for position in range(len(self._documents)) for shingle in self._make_shingles(position)
        )

        def rarity(shingle: str) -> tuple[int, str]:
            return frequency[shingle], shingle

        found: dict[str, list[int]] = defaultdict(list)
        for position, document in enumerate(self._documents):
            shingles = sorted(self._make_shingles(position), key=rarity)
            rare = [one for one in shingles[: _prefix(shingles, REPORTED_SIMILARITY)] if frequency[one] <= RARE_ROWS]
            chosen = {*shingles[: _prefix(shingles, REFUSED_SIMILARITY)], *rare}
            for part in (document.question, document.answer):
                if inner := _shingles(_words_of(part)):
                    chosen.add(min(inner, key=rarity))
                    break
            for shingle in chosen:
                found[shingle].append(position)
        return dict(found)

    def findings(self, other: Document, other_set: str) -> Iterator[LeakageFinding]:
        """What `other` knows, each row once, at most MAX_REFUSED_PAIRS of the same text."""
        if other.id in self._by_id:
            yield LeakageFinding("same_id", other.id, other.id, other_set)
        joined = _words_of(other.text)
        same = self._by_words.get(joined, [])[:MAX_REFUSED_PAIRS]
        known = {self._by_id.get(other.id), *same}
        for position in same:
            row = self._documents[position]
            if row.id != other.id:
                kind = "verbatim" if row.text == other.text else "normalised"
                yield LeakageFinding(kind, row.id, other.id, other_set)
        known_shingles = _shingles(joined)
        candidates = {position for shingle in known_shingles for position in self._by_shingle.get(shingle, ())}
        for position in sorted(candidates - known):
            row = self._documents[position]
            similarity = jaccard(self._shingles_at(position), known_shingles)
            if _holds(joined, row):
                yield LeakageFinding("embedded", row.id, other.id, other_set)
            elif similarity >= REPORTED_SIMILARITY:
                yield LeakageFinding("near_duplicate", row.id, other.id, other_set, similarity)


def _prefix(shingles: Sequence[str], similarity: float) -> int:
    return len(shingles) - math.ceil(similarity * len(shingles)) + 1


def _words_of(text: str) -> str:
    return " ".join(words(text))


def _shingles(joined_words: str) -> frozenset[str]:
    return shingles(joined_words.split(" "))


def _holds(joined_words: str, row: Document) -> bool:
    """Whether question and answer both stand in a text, each in one piece. Texts of fewer than three words in the
    question and in the answer are everywhere, and are not looked for.
    """
    text = f" {joined_words} "
    question, answer = _words_of(row.question), _words_of(row.answer)
    if not _shingles(question) and not _shingles(answer):
        return False
    return f" {question} " in text and f" {answer} " in text
