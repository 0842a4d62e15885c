"""The evaluator's composition root."""

from __future__ import annotations

import asyncio
import os
import pathlib

from luthier.client import AsyncClient

from luthierd.evaluator.api.annotation_queue_service import AnnotationQueueServicer
from luthierd.evaluator.api.challenge_set_service import ChallengeSetServicer
from luthierd.evaluator.api.evaluation_service import EvaluationServicer, GateServicer
from luthierd.evaluator.api.holdout_service import HoldoutServicer
from luthierd.evaluator.api.peers import SdkPeers
from luthierd.evaluator.api.prompt_service import PromptServicer
from luthierd.evaluator.api.verdict_service import VerdictServicer
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.decisions.gate_policy_store import SqlPolicyStore
from luthierd.evaluator.decisions.gates import Gates
from luthierd.evaluator.decisions.holdout_ledger import Holdouts
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.decisions.verdicts import Verdicts
from luthierd.evaluator.deletion import CACHES, KINDS, REFERRERS, ROOTS
from luthierd.evaluator.human_review.queues import AnnotationQueues
from luthierd.evaluator.human_review.store import SqlAnnotationStore
from luthierd.evaluator.models.endpoints import load_endpoints
from luthierd.evaluator.run.evaluations import Evaluations
from luthierd.evaluator.run.prompts import Prompts
from luthierd.evaluator.suites.challenge_sets import ChallengeSets
from luthierd.evaluator.suites.challenge_store import SqlChallengeSetStore
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import Service
from luthierd.rpc.storage_service import Storage
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore
from luthierd.storage.sweep import Expiry
from luthierd.storage.tombstones import Tombstones

VERSIONS = pathlib.Path(__file__).parent / "versions"


async def build(
    config: EvaluatorConfig,
    *,
    database: Database | None = None,
    verifier: TokenVerifier | None = None,
    peers: SdkPeers | None = None,
    launcher: Launcher | None = None,
) -> Service:
    """The service over a migrated database. Tests pass the parts that they replace."""
    database = database or Database.of(config, "evaluator")
    await database.migrate(VERSIONS)
    queue = JobQueue.of(config, database)
    launcher = launcher or Launcher.of(config, "evaluator", queue)
    blobs = BlobStore.of(config)
    client = AsyncClient(endpoints_of(config), token="")
    peers = peers or SdkPeers(client, TokenIssuer.of(config))
    endpoints = load_endpoints(config.endpoints_path, os.environ)
    sets = ChallengeSets(SqlChallengeSetStore(database), peers, blobs)
    holdouts = Holdouts(SqlLedger(database), peers, blobs)
    evaluations = Evaluations(
        queue, peers, blobs, wake=launcher.wake, holdouts=holdouts, endpoints=endpoints, challenge_sets=sets
    )
    gates = Gates(SqlPolicyStore(database), evaluations, holdouts)
    storage = Storage.of(
        config,
        "evaluator",
        database,
        client=client,
        referrers=REFERRERS,
        kinds=KINDS,
        roots=ROOTS,
        copies=["cache/blobs"],
        expiries=[Expiry(table=table, retention_s=config.cache_retention_s) for table in CACHES],
    )
    stopping = asyncio.Event()
    return Service(
        name="evaluator",
        servicers=[
            EvaluationServicer(evaluations, queue, stopping, storage.deletions),
            GateServicer(gates, storage.deletions),
            PromptServicer(Prompts(queue, peers, wake=launcher.wake), queue, stopping, storage.deletions),
            VerdictServicer(Verdicts(evaluations, peers)),
            ChallengeSetServicer(sets, storage.deletions),
            HoldoutServicer(holdouts),
            AnnotationQueueServicer(
                AnnotationQueues(SqlAnnotationStore(database), evaluations, blobs), storage.deletions
            ),
            storage.servicer,
        ],
        verifier=verifier or TokenVerifier.of(config),
        replays=SqlReplayStore(database),
        tombstones=Tombstones(database),
        background=[launcher.run, storage.servicer.sweep],
        close=[client.close, database.close],
        stopping=stopping,
    )
