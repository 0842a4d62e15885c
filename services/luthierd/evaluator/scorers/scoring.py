"""From answers to scores: every metric that the task allows, for all rows and for each slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator.dataset.parsing import has_labels, parse_answer
from luthierd.evaluator.dataset.rows import slice_positions
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row, TaskSpec
from luthierd.evaluator.domain.scores import RowScores, Scored
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.scorers.labels import confusion
from luthierd.evaluator.scorers.metric_details import details_of
from luthierd.evaluator.scorers.metric_table import MetricTable
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.scorer import Sample, Scorer, score_all
from luthierd.statistics import clustered


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How to score: the reading of answers, the scorers, and the bootstrap's seed and draws."""

    task: TaskSpec
    scorers: Sequence[Scorer]
    seed: int = 0
    n_resamples: int = clustered.N_RESAMPLES
    passages: Mapping[str, Row] = field(default_factory=dict)
    """Training rows by id, for the scorers that read what stood in a prompt."""
    perturbations: Mapping[tuple[Arm, str], Mapping[str, str]] = field(default_factory=dict)
    """Answers to the additional queries; see `perturbations.perturbed_answers`."""
    judge: Judge | None = None

    async def score(self, rows: Sequence[Row], answers: Mapping[Arm, Mapping[str, Answer]]) -> Scored:
        """Scores every arm on the same rows. A row without an answer stays in, as a failure."""
        samples = {arm: [self._sample(arm, row, given.get(row.id)) for row in rows] for arm, given in answers.items()}
        everything = [sample for arm_samples in samples.values() for sample in arm_samples]
        row_scores: list[RowScores] = []
        scorers = self.applicable(rows)
        for scorer in scorers:
            await scorer.prepare(everything)
            for arm in samples:
                if spec_of(scorer.metric).needs.context and not any(sample.shown for sample in samples[arm]):
                    continue  # nothing was retrieved for this arm: it has no such result, and no failure either
                row_scores.append(RowScores(arm, scorer.metric, await score_all(scorer, samples[arm])))
        labelled = has_labels(rows, self.task)
        found = MetricTable(
            rows=rows,
            samples=samples,
            row_scores=row_scores,
            seed=self.seed,
            n_resamples=self.n_resamples,
            labelled=labelled,
        )
        return Scored(
            rows=row_scores,
            overall=found.results(),
            confusions={arm: confusion(given) for arm, given in samples.items()} if labelled else {},
            metric_details=details_of(
                rows, samples, row_scores, scorers, judge=self.judge, labelled=labelled, seed=self.seed
            ),
            slices={name: found.part(chosen).results() for name, chosen in slice_positions(rows).items()},
        )

    async def values(
        self, metric: Metric, arm: Arm, rows: Sequence[Row], answers: Mapping[str, Answer], scorers: Sequence[Scorer]
    ) -> list[float | None]:
        """One arm's scores under one metric of `scorers`, row by row; None for a failed row."""
        scorer = next(scorer for scorer in scorers if scorer.metric == metric)
        samples = [self._sample(arm, row, answers.get(row.id)) for row in rows]
        await scorer.prepare(samples)
        return [score.value for score in await score_all(scorer, samples)]

    def applicable(self, rows: Sequence[Row]) -> list[Scorer]:
        """The scorers that mean something here: JSON validity needs a JSON task, label accuracy needs labels."""
        labelled = has_labels(rows, self.task)
        return [scorer for scorer in self.scorers if scorer.applies(self.task, labelled=labelled)]

    def _sample(self, arm: Arm, row: Row, answer: Answer | None) -> Sample:
        reference = parse_answer(row.reference, self.task)
        if answer is None or answer.error is not None:
            reason = answer.error.reason if answer and answer.error else "NOT_ASKED"
            return Sample(row_id=row.id, reference=reference, answer=None, failure=reason, arm=arm, row=row)
        return Sample(
            row_id=row.id,
            reference=reference,
            answer=parse_answer(answer.text, self.task),
            arm=arm,
            row=row,
            raw=answer.text,
            shown=tuple(self.passages[name] for name in answer.shown_row_ids if name in self.passages),
            perturbations=self.perturbations.get((arm, row.id), {}),
        )
