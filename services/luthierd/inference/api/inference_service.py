"""The gRPC servicers: each method parses, calls one use case, and translates. No rule of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from luthier.inference.v1 import (
    deployment_service_pb2,
    deployment_service_pb2_grpc,
    engine_service_pb2,
    engine_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    quota_pb2,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)

from luthierd import logs
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission
from luthierd.inference.admission.quotas import REQUESTS, TOKENS, Quotas
from luthierd.inference.api import completion_wire as answer_wire
from luthierd.inference.api import deployment_wire as wire
from luthierd.inference.api.feedback_service import FeedbackServicer
from luthierd.inference.completions.batches import Batches
from luthierd.inference.completions.completions import Answers, Models, Prompt
from luthierd.inference.completions.embeddings import Embeddings
from luthierd.inference.completions.read_ahead import read_ahead
from luthierd.inference.completions.scores import Scores
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.domain.completion import Answer, Origin, Target
from luthierd.inference.domain.quota import Quota
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.feedback.capturing import Capturing
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DEPLOYMENT, QUOTA, TENANT
from luthierd.paging import PageRequest
from luthierd.rpc.auth import TokenVerifier, current_principal
from luthierd.rpc.contract import services_of
from luthierd.rpc.idempotency import ReplayStore
from luthierd.rpc.server import Health, Service

EVALUATE = "inference.evaluate"


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers prompts."""

    def __init__(self, answers: Answers, *, reader_limit_s: float) -> None:
        self._answers, self._reader_limit_s = answers, reader_limit_s
        self._batches, self._scores, self._embeddings = Batches(answers), Scores(answers), Embeddings(answers)

    async def Generate(self, request: Any, context: Any) -> inference_service_pb2.GenerateResponse:
        answer = await self._answer(request, answer_wire.prompt_from_proto(request.prompt), context)
        return inference_service_pb2.GenerateResponse(**answer_wire.answer_to_fields(answer))

    async def Chat(self, request: Any, context: Any) -> inference_service_pb2.ChatResponse:
        answer = await self._answer(request, answer_wire.turns_from_proto(request.messages), context)
        return inference_service_pb2.ChatResponse(**answer_wire.answer_to_fields(answer))

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async with contextlib.aclosing(
            self._pieces(request, answer_wire.prompt_from_proto(request.prompt), context)
        ) as pieces:
            async for fields in pieces:
                yield inference_service_pb2.GenerateStreamResponse(**fields)

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async with contextlib.aclosing(
            self._pieces(request, answer_wire.turns_from_proto(request.messages), context)
        ) as pieces:
            async for fields in pieces:
                yield inference_service_pb2.ChatStreamResponse(**fields)

    async def BatchGenerate(self, request: Any, context: Any) -> inference_service_pb2.BatchGenerateResponse:
        prompts = answer_wire.inputs_from_proto(request.inputs)
        sampling = answer_wire.sampling_from_proto(request.sampling)
        batch = await self._batches.answer(_target(request), prompts, sampling, **_caller(request))
        _name(context, batch.origin, batch.response_id)
        return answer_wire.batch_to_proto(batch)

    async def Score(self, request: Any, context: Any) -> inference_service_pb2.ScoreResponse:
        prompt, completion = answer_wire.scored_from_proto(request)
        score = await self._scores.score(_target(request), prompt, completion, **_caller(request))
        _name(context, score.origin, score.response_id)
        return answer_wire.score_to_proto(score)

    async def Embed(self, request: Any, context: Any) -> inference_service_pb2.EmbedResponse:
        texts = answer_wire.texts_from_proto(request.texts)
        embedded = await self._embeddings.embed(_target(request), texts, **_caller(request))
        _name(context, embedded.origin, embedded.response_id)
        return answer_wire.embedded_to_proto(embedded)

    async def _answer(self, request: Any, prompt: Prompt, context: Any) -> Answer:
        sampling = answer_wire.sampling_from_proto(request.sampling, is_unary=True)
        answer = await self._answers.answer(_target(request), prompt, sampling, **_caller(request))
        _name(context, answer.origin, answer.response_id)
        return answer

    async def _pieces(self, request: Any, prompt: Prompt, context: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The fields of a stream's messages."""
        sampling = answer_wire.sampling_from_proto(request.sampling)
        made = self._answers.stream(_target(request), prompt, sampling, **_caller(request))
        stream = read_ahead(made, limit_s=self._reader_limit_s)
        is_first = True
        async with contextlib.aclosing(stream) as pieces:
            async for piece in pieces:
                if is_first:
                    _name(context, piece.origin, piece.response_id)
                yield answer_wire.piece_to_fields(piece, is_first=is_first)
                is_first = False


class DeploymentServicer(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Changes what is served."""

    def __init__(self, deployments: Deployments, loaded_adapters: LoadedAdapters) -> None:
        self._deployments, self._loaded_adapters = deployments, loaded_adapters

    async def DeployAdapter(self, request: Any, context: Any) -> deployment_service_pb2.DeployAdapterResponse:
        DEPLOYMENT.parse(request.name)
        ADAPTER_REVISION.parse(request.adapter_revision, field="adapter_revision")
        deployment = await self._deployments.deploy(
            request.name, request.adapter_revision, stage_only=request.stage_only, etag=request.etag
        )
        return deployment_service_pb2.DeployAdapterResponse(deployment=self._to_proto(deployment))

    async def PromoteDeployment(self, request: Any, context: Any) -> deployment_service_pb2.PromoteDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.promote(request.name, etag=request.etag)
        return deployment_service_pb2.PromoteDeploymentResponse(deployment=self._to_proto(deployment))

    async def RollbackDeployment(self, request: Any, context: Any) -> deployment_service_pb2.RollbackDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.roll_back(request.name, etag=request.etag)
        return deployment_service_pb2.RollbackDeploymentResponse(deployment=self._to_proto(deployment))

    async def DeleteDeployment(self, request: Any, context: Any) -> deployment_service_pb2.DeleteDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        await self._deployments.delete(request.name, etag=request.etag)
        return deployment_service_pb2.DeleteDeploymentResponse()

    async def SetTraffic(self, request: Any, context: Any) -> deployment_service_pb2.SetTrafficResponse:
        DEPLOYMENT.parse(request.name)
        if request.mirror_revision:
            ADAPTER_REVISION.parse(request.mirror_revision, field="mirror_revision")
        deployment = await self._deployments.set_traffic(
            request.name,
            wire.weights_from_proto(request.traffic),
            mirror_revision=request.mirror_revision,
            etag=request.etag,
        )
        return deployment_service_pb2.SetTrafficResponse(deployment=self._to_proto(deployment))

    async def PinDeployment(self, request: Any, context: Any) -> deployment_service_pb2.PinDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.pin(request.name, is_pinned=request.pinned, etag=request.etag)
        return deployment_service_pb2.PinDeploymentResponse(deployment=self._to_proto(deployment))

    async def PrefetchDeployment(self, request: Any, context: Any) -> deployment_service_pb2.PrefetchDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.prefetch(request.name)
        return deployment_service_pb2.PrefetchDeploymentResponse(deployment=self._to_proto(deployment))

    async def GetDeployment(self, request: Any, context: Any) -> deployment_service_pb2.GetDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        return deployment_service_pb2.GetDeploymentResponse(
            deployment=self._to_proto(self._deployments.get(request.name))
        )

    async def ListDeployments(self, request: Any, context: Any) -> deployment_service_pb2.ListDeploymentsResponse:
        TENANT.parse(request.parent, field="parent")
        page = self._deployments.list(
            request.parent, PageRequest.parse(request.page_size, request.page_token, request.parent)
        )
        return deployment_service_pb2.ListDeploymentsResponse(
            deployments=[self._to_proto(deployment) for deployment in page.items], next_page_token=page.next_page_token
        )

    def _to_proto(self, deployment: Any) -> Any:
        return wire.deployment_to_proto(deployment, self._loaded_adapters)


class EngineServicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Starts and shows the engine."""

    def __init__(self, host: EngineHost, models: Models, loaded_adapters: LoadedAdapters) -> None:
        self._host, self._models, self._loaded_adapters = host, models, loaded_adapters

    async def StartEngine(self, request: Any, context: Any) -> engine_service_pb2.StartEngineResponse:
        BASE_MODEL.parse(request.base_model, field="base_model")
        await self._host.want(await self._models.base_model(request.base_model))
        return engine_service_pb2.StartEngineResponse(engine=self._to_proto())

    async def GetEngine(self, request: Any, context: Any) -> engine_service_pb2.GetEngineResponse:
        return engine_service_pb2.GetEngineResponse(engine=self._to_proto())

    def _to_proto(self) -> Any:
        return wire.engine_to_proto(self._host.status, loaded_adapter_count=self._loaded_adapters.loaded_count)


class TenantServicer(tenant_service_pb2_grpc.TenantServiceServicer):
    """Shows and changes what tenants may take."""

    def __init__(self, quotas: Quotas, admission: Admission, deployments: Deployments) -> None:
        self._quotas, self._admission, self._deployments = quotas, admission, deployments

    async def GetQuota(self, request: Any, context: Any) -> tenant_service_pb2.GetQuotaResponse:
        QUOTA.parse(request.name)
        return tenant_service_pb2.GetQuotaResponse(quota=self._to_proto(self._quotas.get(request.name)))

    async def ListQuotas(self, request: Any, context: Any) -> tenant_service_pb2.ListQuotasResponse:
        page = self._quotas.list(
            PageRequest.parse(request.page_size, request.page_token), tenants=self._deployments.tenants()
        )
        return tenant_service_pb2.ListQuotasResponse(
            quotas=[self._to_proto(quota) for quota in page.items], next_page_token=page.next_page_token
        )

    async def UpdateQuota(self, request: Any, context: Any) -> tenant_service_pb2.UpdateQuotaResponse:
        QUOTA.parse(request.name)
        changes = wire.quota_changes_from_proto(request)
        quota = await self._quotas.update(request.name, changes, etag=request.etag)
        return tenant_service_pb2.UpdateQuotaResponse(quota=self._to_proto(quota))

    def _to_proto(self, quota: Quota) -> quota_pb2.Quota:
        (tenant,) = QUOTA.parse(quota.name)
        load = self._admission.load(tenant)
        usage = quota_pb2.QuotaUsage(
            requests_in_minute=self._quotas.used(tenant, REQUESTS),
            tokens_in_minute=self._quotas.used(tenant, TOKENS),
            running_requests=load.running_count,
            waiting_requests=load.waiting_count,
            deployed_adapters=len(self._deployments.deployed_adapters(TENANT.format(tenant))),
        )
        message = wire.quota_to_proto(quota, self._quotas.limits(tenant), usage)
        message.replica_count = self._quotas.replica_count
        return message


def inference_service(
    *,
    answers: Answers,
    deployments: Deployments,
    loaded_adapters: LoadedAdapters,
    host: EngineHost,
    models: Models,
    capturing: Capturing,
    quotas: Quotas,
    admission: Admission,
    verifier: TokenVerifier,
    replays: ReplayStore,
    health: Health,
    max_answer_s: float,
    reader_limit_s: float,
    **life: Any,
) -> Service:
    """What `serve()` needs. `max_answer_s`, `reader_limit_s`: see `InferenceConfig`. `life`: `background` and `close`
    of `Service`.
    """
    answering = InferenceServicer(answers, reader_limit_s=reader_limit_s)
    return Service(
        name="inference",
        servicers=[
            answering,
            DeploymentServicer(deployments, loaded_adapters),
            EngineServicer(host, models, loaded_adapters),
            FeedbackServicer(capturing.feedbacks, capturing.policies, capturing.files),
            TenantServicer(quotas, admission, deployments),
        ],
        limits_s={method.name: max_answer_s for service in services_of(answering) for method in service.methods},
        verifier=verifier,
        replays=replays,
        health=health,
        **life,
    )


def _target(request: Any) -> Target:
    """An adapter revision need not be deployed by anybody who may generate: it needs a scope of its own."""
    target = answer_wire.target_from_proto(request.target)
    if target.kind == Target.ADAPTER_REVISION:
        current_principal().require_scope(EVALUATE)
    return target


def _caller(request: Any) -> dict[str, str]:
    """For whom, and in which conversation."""
    return {"tenant": current_principal().tenant, "session_id": answer_wire.session_id_of(request.session_id)}


def _name(context: Any, origin: Origin, response_id: str) -> None:
    """Says in the trailer, for proxies and those that read no bodies, who answered."""
    named = (
        ("x-request-id", logs.request_id.get()),
        ("luthier-loaded-adapter", origin.loaded_adapter),
        ("luthier-deployment-revision", str(origin.deployment_revision)),
        ("luthier-response-id", response_id),
    )
    context.set_trailing_metadata(named)
