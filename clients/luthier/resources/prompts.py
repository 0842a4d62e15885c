"""Prompts and the search for them (the evaluator service)."""

from __future__ import annotations

from luthier.evaluator.v1 import prompt_pb2 as pb
from luthier.evaluator.v1 import prompt_service_pb2 as api
from luthier.evaluator.v1 import prompt_service_pb2_grpc as rpc
from luthier.resources.job_resource import JobResource


class Prompts(JobResource["rpc.PromptServiceAsyncStub", pb.Prompt, pb.PromptEvent]):
    _make_stub = rpc.PromptServiceStub
    _api, _job, _field = api, "Prompt", "prompt"

    async def create(
        self,
        parent: str,
        *,
        target: str,
        dataset_revision: str,
        search: pb.PromptSearch | None = None,
        prompt_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Prompt:
        """Queues the search for a prompt of `target`, a base model or an adapter revision."""
        prompt = pb.Prompt(dataset_revision=dataset_revision, search=search)
        if target.startswith("tenants/"):
            prompt.adapter_revision = target
        else:
            prompt.base_model = target
        request = api.CreatePromptRequest(parent=parent, prompt=prompt, prompt_id=prompt_id, request_id=request_id)
        return (await self._call(self._stub.CreatePrompt, request, timeout_s)).prompt
