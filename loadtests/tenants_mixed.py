"""Scenario: applications of several tenants and of the base model, over gRPC and HTTP, while operators may deploy.

SLO: no failed request, and no answer from another tenant's adapter or one that the deployment does not hold. Latencies
are reported but not judged, because they depend on the machine.

Run by `make load` (loadtests/run.py), which passes the targets; each is a tenant, a deployment and a token.
"""

from __future__ import annotations

import json
import os
import random
import time
from typing import Any

import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import FastHttpUser, User, constant, events, task
from luthier.inference.v1 import deployment_service_pb2 as deployments_pb
from luthier.inference.v1 import deployment_service_pb2_grpc as deployments_rpc
from luthier.inference.v1 import inference_service_pb2 as pb
from luthier.inference.v1 import inference_service_pb2_grpc as rpc

grpc_gevent.init_gevent()

PLAN: dict[str, Any] = json.loads(os.environ.get("LUTHIER_LOAD_PLAN", '{"targets": []}'))
"""`grpc_address`, `http_url`, `targets`: [{tenant, target, model, token}]; see run.py."""

MAX_TOKENS = 32
TIMEOUT_S = 120.0
PROMPTS = (
    "Name three rivers of Europe.",
    "What is a moving average?",
    "def area(radius): returns the area of a circle. Describe it in one line.",
    "Explain why the sky is blue, briefly.",
)


class WrongAnswerError(Exception):
    """An answer from the wrong origin."""


def check_origin(target: dict[str, str], loaded_adapter: str, adapter_revision: str, held: set[str]) -> None:
    """Raises WrongAnswerError unless the answer is from a loaded adapter that the target held during the call."""
    if target["target"].startswith("baseModels/"):
        if loaded_adapter != "base":
            raise WrongAnswerError(f"the base model answered as {loaded_adapter}")
        return
    if adapter_revision and not adapter_revision.startswith(f"tenants/{target['tenant']}/"):
        raise WrongAnswerError(f"{target['target']} answered with {adapter_revision}")
    if loaded_adapter not in held:
        raise WrongAnswerError(f"{target['target']} answered as {loaded_adapter}, which it never held")


class Deployments:
    """The loaded adapters that each deployment has held; refreshed when an answer names an unknown one."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = deployments_rpc.DeploymentServiceStub(channel)
        self._held: dict[str, set[str]] = {}

    def held(self, target: dict[str, str], loaded_adapter: str) -> set[str]:
        """All loaded adapters seen at the target so far."""
        seen = self._held.setdefault(target["target"], set())
        if loaded_adapter not in seen and target["target"].startswith("tenants/"):
            request = deployments_pb.GetDeploymentRequest(name=target["target"])
            found = self._stub.GetDeployment(request, metadata=bearer(target), timeout=TIMEOUT_S).deployment
            seen |= {each.id for each in (found.live, found.previous, found.candidate) if each.id}
        return seen


def bearer(target: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Call metadata of a target's application."""
    return (("authorization", f"Bearer {target['token']}"),)


class GrpcApplication(User):
    """An application that streams chats over gRPC."""

    wait_time = constant(0)

    def on_start(self) -> None:
        self.channel = grpc.insecure_channel(PLAN["grpc_address"])
        self.stub = rpc.InferenceServiceStub(self.channel)
        self.deployments = Deployments(self.channel)

    @task
    def chat(self) -> None:
        target = random.choice(PLAN["targets"])
        start = time.perf_counter()
        length, failure = 0, None
        try:
            length = self._stream(target)
        except (grpc.RpcError, WrongAnswerError) as error:
            failure = error
        elapsed_ms = (time.perf_counter() - start) * 1000
        self.environment.events.request.fire(
            request_type="gRPC", name="ChatStream", response_time=elapsed_ms, response_length=length, exception=failure
        )

    def _stream(self, target: dict[str, str]) -> int:
        """Number of tokens in one answer. Raises grpc.RpcError, WrongAnswerError."""
        kind = "base_model" if target["target"].startswith("baseModels/") else "deployment"
        request = pb.ChatStreamRequest(
            target=pb.Target(**{kind: target["target"]}),
            messages=[pb.Message(role="user", content=random.choice(PROMPTS))],
            sampling=pb.Sampling(max_tokens=MAX_TOKENS),
        )
        last = None
        for message in self.stub.ChatStream(request, metadata=bearer(target), timeout=TIMEOUT_S):
            last = message
        if last is None or not last.finish.finish_reason:
            raise WrongAnswerError("the stream ended without its last message")
        origin = last.origin
        check_origin(
            target, origin.loaded_adapter, origin.adapter_revision, self.deployments.held(target, origin.loaded_adapter)
        )
        return int(last.finish.completion_token_count)


class HttpApplication(FastHttpUser):
    """An application that uses the OpenAI-compatible endpoint."""

    wait_time = constant(0)
    host = PLAN.get("http_url", "")
    connection_timeout = network_timeout = TIMEOUT_S

    def on_start(self) -> None:
        self.deployments = Deployments(grpc.insecure_channel(PLAN["grpc_address"]))

    @task
    def chat(self) -> None:
        target = random.choice(PLAN["targets"])
        body = {
            "model": target["model"],
            "messages": [{"role": "user", "content": random.choice(PROMPTS)}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        }
        headers = dict(bearer(target))
        with self.client.post("/v1/chat/completions", json=body, headers=headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {(response.text or '')[:200]}")
                return
            loaded_adapter = response.headers.get("x-luthier-loaded-adapter", "")
            try:
                check_origin(target, loaded_adapter, "", self.deployments.held(target, loaded_adapter))
            except WrongAnswerError as error:
                response.failure(str(error))
                return
            response.request_meta["response_length"] = response.json()["usage"]["completion_tokens"]


@events.quitting.add_listener
def print_summary(environment: Any, **_: Any) -> None:
    """Prints what was measured and sets the exit code: 1 if the SLO is broken."""
    total = environment.stats.total
    span_s = max(0.001, (total.last_request_timestamp or 0) - total.start_time)
    print(f"\n{'':<22}{'requests':>9}{'failed':>8}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'tokens/s':>10}")
    for name, entry in [
        *((f"{kind} {name}", e) for (name, kind), e in environment.stats.entries.items()),
        ("all", total),
    ]:
        quantiles = [entry.get_response_time_percentile(q) or 0 for q in (0.5, 0.95, 0.99)]
        tokens_per_s = entry.total_content_length / span_s
        shown = "".join(f"{value:>9.0f}" for value in quantiles)
        print(f"{name[:22]:<22}{entry.num_requests:>9}{entry.num_failures:>8}{shown}{tokens_per_s:>10.1f}")
    for error in environment.stats.errors.values():
        print(f"FAILED {error.occurrences} x {error.method} {error.name}: {error.error}")
    environment.process_exit_code = 1 if total.num_failures or not total.num_requests else 0
