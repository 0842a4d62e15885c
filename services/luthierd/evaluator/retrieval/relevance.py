"""What a retriever should have found for a row, and how much of it it found.

Three rules, the first that applies to the rows. *Gold passages*: the rows or documents that a row itself names.
*Contains the answer* (documents only; Karpukhin et al. 2020): pieces in which the row's reference stands word for word;
a reference that stands in more than `MAX_HOLDERS` pieces tells nothing. *Similar reference*: the texts whose answers
share most words (Dice) with the row's reference, as many as are shown. The last one asks for what helps a model to
write the answer, and knows only words: a paraphrase is missed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import numpy.typing as npt
import scipy.sparse

from luthierd.evaluator.domain.retrieval import Relevance, RetrievalMetric
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.retrieval.indexes import NOTHING, Ranking
from luthierd.statistics import clustered, compare

MAX_HOLDERS = 10
# The share of rows that the rule must be able to judge; below it the next rule judges all of them.
MIN_JUDGED_SHARE = 0.5
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Qrels:
    """By row and unit (an id for gold passages, else a position as text) a grade from 1 on."""

    relevance: Relevance
    grades: Mapping[str, Mapping[str, int]]
    units: Sequence[str]

    @property
    def judged(self) -> set[str]:
        """Rows for which there is something to find."""
        return {row for row, grades in self.grades.items() if grades}


@dataclass(frozen=True)
class JudgedRows:
    """Rows to judge by. `answers[i]` is what the row's reference says, `own[i]` the row's own position among the texts,
    or `NOTHING`: it does not count as a result for itself.
    """

    rows: Sequence[Row]
    answers: Sequence[str]
    own: Sequence[int]


def qrels_of(judged: JudgedRows, ids: Sequence[str], answers: Sequence[str], *, documents: bool, cutoff: int) -> Qrels:
    """What each row should find among texts with these `ids` and `answers` (a document's answer is its text)."""
    known = set(ids)
    gold = {row.id: dict.fromkeys(known.intersection(row.sources), 1) for row in judged.rows}
    if _judges_enough(gold):
        return Qrels(Relevance.GOLD_PASSAGES, gold, ids)
    units = [str(position) for position in range(len(ids))]
    if documents:
        holders = _holders(judged, answers)
        if _judges_enough(holders):
            return Qrels(Relevance.CONTAINS_ANSWER, holders, units)
    return Qrels(Relevance.SIMILAR_REFERENCE, _similar(judged, answers, cutoff), units)


def retrieval_metrics(
    qrels: Qrels, ranking: Ranking, rows: Sequence[Row], *, cutoff: int, seed: int, n_resamples: int
) -> list[RetrievalMetric]:
    """`recall@k`, `ndcg@k` and `mrr` of a ranking over the rows that can be judged; none if there are none."""
    judged = [(at, row) for at, row in enumerate(rows) if qrels.grades[row.id]]
    if not judged:
        return []
    found = {row.id: _finds(ranking[at], qrels.units, cutoff) for at, row in judged}
    wanted = {row.id: dict(qrels.grades[row.id]) for _, row in judged}
    names = {
        ir_measures.R @ cutoff: f"recall@{cutoff}",
        ir_measures.nDCG @ cutoff: f"ndcg@{cutoff}",
        ir_measures.RR: "mrr",
    }
    # A row that found nothing is in no run and would be left out: it scores 0.
    values = {name: {row.id: 0.0 for _, row in judged} for name in names.values()}
    for one in ir_measures.iter_calc(list(names), wanted, found):
        values[names[one.measure]][one.query_id] = one.value
    groups = [row.group for _, row in judged]
    return [_figure(name, list(by_row.values()), groups, seed, n_resamples) for name, by_row in values.items()]


def _figure(name: str, values: Sequence[float], groups: Sequence[str], seed: int, n_resamples: int) -> RetrievalMetric:
    data = clustered.mean_of(values, groups)
    interval = compare.mean_interval(data, seed=seed, n_resamples=n_resamples)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return RetrievalMetric(name, data.value(), low, high)


def _finds(positions: npt.NDArray[np.int64], units: Sequence[str], cutoff: int) -> dict[str, float]:
    """The first `cutoff` units by reciprocal place; a document counts where its best piece stands."""
    found = list(dict.fromkeys(units[position] for position in positions.tolist() if position != NOTHING))
    return {unit: 1 / place for place, unit in enumerate(found[:cutoff], start=1)}


def _judges_enough(grades: Mapping[str, Mapping[str, int]]) -> bool:
    return sum(bool(found) for found in grades.values()) >= max(1.0, MIN_JUDGED_SHARE * len(grades))


def _holders(judged: JudgedRows, texts: Sequence[str]) -> dict[str, dict[str, int]]:
    padded = [f" {' '.join(_words(text))} " for text in texts]
    found: dict[str, dict[str, int]] = {}
    for row, answer in zip(judged.rows, judged.answers, strict=True):
        wanted = f" {' '.join(_words(answer))} "
        holders = [at for at, text in enumerate(padded) if wanted in text] if wanted.strip() else []
        found[row.id] = {str(at): 1 for at in holders} if len(holders) <= MAX_HOLDERS else {}
    return found


def _similar(judged: JudgedRows, answers: Sequence[str], cutoff: int) -> dict[str, dict[str, int]]:
    """Grades are tenths of Dice's coefficient over distinct words, at least 1; texts as similar as the last one that is
    shown are in.
    """
    vocabulary: dict[str, int] = {}
    own, others = _bag(judged.answers, vocabulary), _bag(answers, vocabulary)
    width = len(vocabulary)
    own.resize((own.shape[0], width))
    others.resize((others.shape[0], width))
    own_sizes, sizes = np.asarray(own.sum(axis=1)).ravel(), np.asarray(others.sum(axis=1)).ravel()
    grades: dict[str, dict[str, int]] = {}
    for at, row in enumerate(judged.rows):
        common = (others @ own[at].T).toarray().ravel()
        dice = 2 * common / np.maximum(1, own_sizes[at] + sizes)
        if judged.own[at] != NOTHING:
            dice[judged.own[at]] = 0.0
        shown = min(cutoff, len(dice))
        least = np.partition(dice, len(dice) - shown)[len(dice) - shown]
        chosen = np.flatnonzero((dice >= least) & (dice > 0))
        grades[row.id] = {str(position): max(1, round(10 * float(dice[position]))) for position in chosen.tolist()}
    return grades


def _bag(texts: Sequence[str], vocabulary: dict[str, int]) -> scipy.sparse.csr_matrix:
    """One row a text: 1 for each distinct word."""
    rows, columns = [], []
    for at, text in enumerate(texts):
        for word in dict.fromkeys(_words(text)):
            rows.append(at)
            columns.append(vocabulary.setdefault(word, len(vocabulary)))
    shape = (len(texts), len(vocabulary))
    return scipy.sparse.csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
