"""Challenge sets over a real server, and an evaluation that asks one."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import luthierd.evaluator
import pytest
from luthier.evaluator.v1 import challenge_set_pb2 as pb
from luthier.evaluator.v1 import challenge_set_service_pb2 as api
from luthier.evaluator.v1 import challenge_set_service_pb2_grpc as rpc
from luthier.evaluator.v1 import evaluation_pb2
from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api.challenge_set_service import ChallengeSetServicer
from luthierd.evaluator.api.config_wire import config_from_proto, config_to_proto
from luthierd.evaluator.api.evaluation_wire import evaluation_to_proto
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.decisions.holdout_ledger import Holdouts
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.deletion import KINDS, REFERRERS
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.suites import LM_TASKS, LmEvalConfig, SuiteConfig
from luthierd.evaluator.run.evaluations import Evaluations
from luthierd.evaluator.suites.challenge_sets import ChallengeSetNotFoundError, ChallengeSets
from luthierd.evaluator.suites.challenge_store import SqlChallengeSetStore
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.deletions import Deletions
from luthierd.storage.references import References
from luthierd.storage.replays import SqlReplayStore
from support.evaluator_material import FakePeers, ScriptedModel, adapter_knows, quick_run
from support.serving import VERIFIER, bearer, error_info, running

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"
REVISION = FakePeers.adapter.dataset_revision
MISSING = "tenants/acme/challengeSets/none"


@dataclass
class Server:
    """The served use cases, and what is behind them."""

    stub: rpc.ChallengeSetServiceStub
    sets: ChallengeSets
    database: Database
    peers: FakePeers
    blobs: BlobStore

    async def generate(self, **changes: Any) -> list[pb.ChallengeCase]:
        request = api.GenerateChallengeCasesRequest(dataset_revision=REVISION, **changes)
        return list((await self.stub.GenerateChallengeCases(request, metadata=bearer())).cases)

    async def create(self, cases: list[pb.ChallengeCase], **caller: Any) -> pb.ChallengeSet:
        request = api.CreateChallengeSetRequest(parent="tenants/acme", cases=cases)
        return (await self.stub.CreateChallengeSet(request, metadata=bearer(**caller))).challenge_set


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[Server]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(VERSIONS)
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    peers = FakePeers(blobs)
    sets = ChallengeSets(SqlChallengeSetStore(database), peers, blobs)
    deletions = Deletions(database, KINDS, References(database, REFERRERS))
    service = Service(
        name="evaluator",
        servicers=[ChallengeSetServicer(sets, deletions)],
        verifier=VERIFIER,
        replays=SqlReplayStore(database),
        close=[database.close],
        stopping=asyncio.Event(),
    )
    async with running(service, EvaluatorConfig(home=tmp_path)) as channel:
        yield Server(rpc.ChallengeSetServiceStub(channel), sets, database, peers, blobs)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_reviewed_proposals_become_an_immutable_set_that_names_its_reviewer(server: Server) -> None:
    cases = await server.generate(per_kind_count=3, seed=1)
    assert len(cases) == 15
    assert cases == await server.generate(per_kind_count=3, seed=1)
    first = await server.create(cases)
    assert first.case_count == 15
    assert first.kind_counts["vague"] == 3
    assert first.name.removeprefix("tenants/acme/challengeSets/d") == first.sha256[:40]
    assert first.reviewer
    assert await server.create(cases) == first
    cases[0].turns[-1].content += " Please."
    assert (await server.create(cases)).name != first.name
    listed = await server.stub.ListChallengeSets(api.ListChallengeSetsRequest(parent="tenants/acme"), metadata=bearer())
    assert len(listed.challenge_sets) == 2
    page = await server.stub.ListChallengeCases(
        api.ListChallengeCasesRequest(parent=first.name, page_size=10), metadata=bearer()
    )
    rest = await server.stub.ListChallengeCases(
        api.ListChallengeCasesRequest(parent=first.name, page_size=10, page_token=page.next_page_token),
        metadata=bearer(),
    )
    assert [case.case_id for case in [*page.cases, *rest.cases]] == [case.case_id for case in cases]


CALLS = [
    ("GenerateChallengeCases", api.GenerateChallengeCasesRequest(dataset_revision=REVISION)),
    ("CreateChallengeSet", api.CreateChallengeSetRequest(parent="tenants/acme")),
    ("GetChallengeSet", api.GetChallengeSetRequest(name=MISSING)),
    ("ListChallengeSets", api.ListChallengeSetsRequest(parent="tenants/acme")),
    ("ListChallengeCases", api.ListChallengeCasesRequest(parent=MISSING)),
]


@pytest.mark.parametrize(("name", "request_message"), CALLS, ids=[name for name, _ in CALLS])
async def test_who_may_not_learns_nothing(server: Server, name: str, request_message: Any) -> None:
    call = getattr(server.stub, name)
    assert (await refused(call(request_message))).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await refused(call(request_message, metadata=bearer("rival")))).code() is grpc.StatusCode.PERMISSION_DENIED
    other_scope = bearer(scopes=("inference.generate",))
    assert (await refused(call(request_message, metadata=other_scope))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_is_wrong_is_named(server: Server) -> None:
    missing = await refused(server.stub.GetChallengeSet(api.GetChallengeSetRequest(name=MISSING), metadata=bearer()))
    assert (missing.code(), error_info(missing).reason) == (grpc.StatusCode.NOT_FOUND, "CHALLENGE_SET_NOT_FOUND")
    for changes, field in (({"per_kind_count": 101}, "per_kind_count"), ({"split": "train"}, "split")):
        error = await refused(server.generate(**changes))
        assert (error.code(), error_info(error).metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert error_info(await refused(server.generate(split="validation"))).reason == "SPLIT_EMPTY"
    (case, *_) = await server.generate(per_kind_count=1)
    case.expected = pb.EXPECTED_BEHAVIOUR_ANSWER
    assert error_info(await refused(server.create([case]))).reason == "CHALLENGE_CASE_INVALID"
    case.kind = pb.CHALLENGE_KIND_UNSPECIFIED
    assert error_info(await refused(server.create([case]))).metadata["field"] == "cases[0].kind"


async def test_an_evaluation_asks_the_set_of_every_arm_and_reports_its_slices(server: Server) -> None:
    created = await server.create(await server.generate(per_kind_count=6))
    queue = JobQueue(server.database, lease_s=15.0)
    evaluations = evaluations_of(server, queue)
    arms = (Arm.BASE, Arm.RAG, Arm.ADAPTER)
    config = EvaluationConfig(arms=arms, resample_count=200, suites=SuiteConfig(challenge_set=created.name))
    queued = await evaluations.create(
        "tenants/acme", adapter_revision=FakePeers.adapter.name, dataset_revision="", config=config
    )
    assert queued.inputs.challenge_sha256 == created.sha256
    plain = quick_run(queued.name, server.peers, server.blobs, config=config, chat_model=_chat_model())
    found = await replace(plain, inputs=queued.inputs).run()
    assert set(found.slices) >= {"challenge", "challenge:vague", "challenge:hostile"}
    assert found.slices["challenge:hostile"].metric(Arm.RAG, Metric("rouge_l")) is not None
    assert found.overall.metric(Arm.ADAPTER, Metric("abstention_recall")) is not None
    assert found.row_count == 24
    message = evaluation_to_proto(replace(queued, results=found))
    assert [(suite.suite, suite.item_count) for suite in message.suites] == [("challenge", 30)]
    assert "expected_behaviour" in {value.metric for arm in message.arms for value in arm.metrics}
    assert len(server.blobs.read_bytes(found.suites[0].answers_sha256).splitlines()) == 30


async def test_an_unknown_set_is_refused_before_anything_is_queued(server: Server) -> None:
    evaluations = evaluations_of(server, JobQueue(server.database, lease_s=15.0))
    for name in (MISSING, "tenants/acme/evaluations/e1"):
        config = EvaluationConfig(suites=SuiteConfig(challenge_set=name))
        with pytest.raises((InvalidArgumentError, ChallengeSetNotFoundError)):
            await evaluations.create(
                "tenants/acme", adapter_revision=FakePeers.adapter.name, dataset_revision="", config=config
            )
    assert (await evaluations.list("tenants/acme", 0, "")).items == ()


def test_the_suites_of_a_configuration_survive_the_wire() -> None:
    given = evaluation_pb2.EvaluationConfig(challenge_set=MISSING)
    given.retention_suite.SetInParent()
    given.counterfactual_suite.term_pairs.add(first="a", second="b")
    given.lm_eval_suite.item_count = 7
    config = config_from_proto(given)
    assert config.suites.retention_item_count == 40
    assert config.suites.counterfactual is not None
    assert config.suites.counterfactual.row_limit == 50
    assert config.suites.lm_eval == LmEvalConfig(LM_TASKS, 7)
    assert config_from_proto(config_to_proto(config)) == config
    assert config_from_proto(evaluation_pb2.EvaluationConfig()).suites == SuiteConfig()


def evaluations_of(server: Server, queue: JobQueue) -> Evaluations:
    holdouts = Holdouts(SqlLedger(server.database), server.peers, server.blobs)
    return Evaluations(
        queue, server.peers, server.blobs, wake=lambda: None, holdouts=holdouts, challenge_sets=server.sets
    )


def _chat_model() -> ScriptedModel:
    def script(arm: Arm, messages: Any) -> Any:
        try:
            return adapter_knows(arm, messages)
        except ValueError:  # a question that is not of the task
            return "I cannot help with that." if arm.uses_adapter else "Certainly!"

    return ScriptedModel(script)
