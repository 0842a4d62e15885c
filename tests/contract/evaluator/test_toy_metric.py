"""A metric is one file: this one defines a metric, and an evaluation through the public API reports it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import evaluation_service_pb2 as api
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import SCORERS, SPECS, MetricSpec, Needs, Sample, Scorer, register
from support.evaluator_service import Server
from support.serving import bearer


class ShortEnoughScorer(Scorer):
    """1 if the answer has no more than ten words, else 0."""

    spec = MetricSpec(Metric("short_enough"), label="Short enough", is_proportion=True, needs=Needs(opt_in=True))

    async def score(self, sample: Sample) -> float:
        return float(len(sample.said.text.split()) <= 10)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(ShortEnoughScorer)
    yield
    del SCORERS[ShortEnoughScorer.spec.metric], SPECS[ShortEnoughScorer.spec.metric]


async def test_a_registered_metric_is_computed_compared_and_reported(server: Server) -> None:
    name = await server.evaluate(metrics=["short_enough"], arms=[pb.ARM_BASE, pb.ARM_ADAPTER])
    found = await server.get(name)
    means = {arm.arm: value.mean for arm in found.arms for value in arm.metrics if value.metric == "short_enough"}
    assert means == {pb.ARM_BASE: 1.0, pb.ARM_ADAPTER: 1.0}
    assert [one.difference for one in found.differences if one.metric == "short_enough"] == [0.0]
    request = api.ReadEvaluationReportRequest(name=name)
    report = (await server.evaluations.ReadEvaluationReport(request, metadata=bearer())).data
    assert b"Short enough" in report
