"""A suite is one file: a toy one is configured by name through the API, run with the others, and reported."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import grpc
import luthierd.evaluator
import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message, Row
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, register_spec
from luthierd.evaluator.suites.suite import Answers, Suite, SuiteContext, SuiteScores, paired_results, said, text_row
from luthierd.statistics.compare import PairedRows
from luthierd.storage.database import Database
from support.evaluator_material import ScriptedModel, adapter_knows
from support.evaluator_service import Server, refused, served

CAPITALS = register_spec(MetricSpec(Metric("capitals"), is_proportion=True, needs=Needs(opt_in=True, suite=True)))


@dataclass(frozen=True, kw_only=True)
class CapitalsSuite(Suite):
    """How often an arm answers in capital letters."""

    name = "capitals"

    words: Sequence[str]
    paired: PairedRows

    @classmethod
    async def of(cls, context: SuiteContext) -> CapitalsSuite | None:
        settings = context.config.suites.settings_of(cls.name)
        if settings is None:
            return None
        words = [f"word {number}" for number in range(int(settings["count"]))]
        return cls(words=words, paired=context.paired(words))

    @classmethod
    def problem(cls, settings: Mapping[str, str]) -> str:
        return "" if settings.get("count", "").isdigit() else "count is a number"

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    @property
    def rows(self) -> list[Row]:
        return [text_row(self.name, word, word, f"Say {word}.") for word in self.words]

    @property
    def item_count(self) -> int:
        return len(self.words)

    async def score(self, answers: Answers) -> SuiteScores:
        found = {
            (CAPITALS, arm): [
                None if (text := said(given, row)) is None else float(text.isupper()) for row in self.rows
            ]
            for arm, given in answers.items()
        }
        return SuiteScores(paired_results(found, self.paired))


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[Server]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(pathlib.Path(luthierd.evaluator.__file__).parent / "versions")
    async with served(database, tmp_path) as found:
        yield found


def shouting_adapter(arm: Arm, messages: Sequence[Message]) -> object:
    if not messages[-1].content.startswith("Say"):
        return adapter_knows(arm, messages)
    return "HELLO" if arm is Arm.ADAPTER else "hello"


async def test_a_suite_that_is_one_class_is_asked_for_by_name_and_reported_with_the_others(server: Server) -> None:
    wanted = pb.SuiteSpec(name="capitals", settings={"count": "12"})
    model = ScriptedModel(shouting_adapter)  # type: ignore[arg-type]
    name = await server.evaluate(chat_model=model, suites=[wanted], arms=[pb.ARM_BASE, pb.ARM_ADAPTER])
    found = await server.get(name)
    assert list(found.config.suites) == [wanted]
    assert [(suite.suite, suite.item_count) for suite in found.suites] == [("capitals", 12)]
    [difference] = [one for one in found.differences if one.metric == CAPITALS]
    assert (difference.difference, difference.row_count) == (1.0, 12)
    assert difference.interval_low > 0


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.SuiteSpec(name="lower_case"), "evaluation.config.suites[0].name"),
        (pb.SuiteSpec(name="retention"), "evaluation.config.suites[0].name"),
        (pb.SuiteSpec(name="capitals", settings={"count": "many"}), "evaluation.config.suites[0].settings"),
    ],
)
async def test_an_unknown_suite_and_wrong_settings_are_rejected_by_field(
    server: Server, spec: pb.SuiteSpec, field: str
) -> None:
    error = await refused(server.create(suites=[spec]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(error.details())
