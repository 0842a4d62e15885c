"""Who may call what: tokens, scopes, tenants; refused before the handler sees anything."""

from __future__ import annotations

import time
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthier.evaluator.v1 import evaluation_pb2, evaluation_service_pb2
from luthier.inference.v1 import deployment_service_pb2, inference_service_pb2
from luthier.trainer.v1 import training_job_pb2, training_job_service_pb2
from luthierd.config import ServerConfig
from luthierd.errors import PermissionDeniedError, UnauthenticatedError
from luthierd.rpc.auth import (
    Principal,
    check_tenant,
    current_principal,
)
from support.scripted import CLIENT_STREAM, SCOPES, SHAPES, call, scripted
from support.serving import ISSUER, VERIFIER, bearer, error_info, running

every_shape = pytest.mark.parametrize("shape", SHAPES)

ACME = Principal("tester", "acme", frozenset())


def signed(key: Any = None, algorithm: str = "EdDSA", **claims: object) -> str:
    """A token of the tests' own making: right, but for what `claims` change or (None) leave out."""
    right = {
        "iss": "luthier",
        "aud": "luthier",
        "sub": "s",
        "tenant": "acme",
        "scope": "curation.read curation.write",
        "exp": time.time() + 60,
    }
    given = {name: value for name, value in (right | claims).items() if value is not None}
    return jwt.encode(given, key or ISSUER._private_key(), algorithm=algorithm)


OTHER_KEY = Ed25519PrivateKey.generate()
WRONG_TOKENS = {
    "none": None,
    "another scheme": "Basic dXNlcjpwYXNz",
    "no token": "Bearer ",
    "malformed": "Bearer not.a.token",
    "expired": f"Bearer {signed(exp=time.time() - 31)}",
    "not valid yet": f"Bearer {signed(nbf=time.time() + 86_400)}",
    "another key": f"Bearer {signed(OTHER_KEY)}",
    "unsigned": f"Bearer {jwt.encode({'tenant': 'acme'}, None, algorithm='none')}",
    "another algorithm": f"Bearer {signed('secret' * 10, 'HS256')}",
    "another audience": f"Bearer {signed(aud='elsewhere')}",
    "another issuer": f"Bearer {signed(iss='elsewhere')}",
    "no expiry": f"Bearer {signed(exp=None)}",
    "no tenant": f"Bearer {signed(tenant=None)}",
    "no scope": f"Bearer {signed(scope=None)}",
}


def unreachable() -> Any:
    async def act(_context: object) -> None:
        raise AssertionError("the handler was reached")

    return act


@every_shape
@pytest.mark.parametrize("header", WRONG_TOKENS.values(), ids=WRONG_TOKENS.keys())
async def test_a_call_without_a_right_token_is_refused(shape: str, header: str | None) -> None:
    metadata = () if header is None else (("authorization", header),)
    async with running(scripted(unreachable()), ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, shape, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_info(caught.value).reason == "UNAUTHENTICATED"


@every_shape
async def test_a_call_with_a_right_token_is_served(shape: str) -> None:
    async with running(scripted(), ServerConfig()) as channel:
        await call(channel, shape, metadata=(("authorization", f"Bearer {signed()}"),))


@every_shape
async def test_a_token_without_the_methods_scope_is_refused(shape: str) -> None:
    others = {*SCOPES.values(), "inference.generate"} - {SCOPES[shape]}
    async with running(scripted(unreachable()), ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, shape, metadata=bearer(scopes=tuple(others)))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(caught.value).metadata == {"scope": SCOPES[shape], "subject": "tester"}


@every_shape
async def test_another_tenants_resource_is_refused_whether_it_exists_or_not(shape: str) -> None:
    async with running(scripted(), ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, shape, tenant="rival")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(caught.value).metadata["tenant"] == "acme"


async def test_a_later_message_of_a_stream_is_held_against_the_tenant_too() -> None:
    taken = []

    async def take(requests: Any, _context: object) -> pb.ImportDatasetResponse:
        async for request in requests:
            taken.append(request.header.parent)
        return pb.ImportDatasetResponse()

    messages = [
        pb.ImportDatasetRequest(header=pb.ImportDatasetHeader(parent=f"tenants/{tenant}"))
        for tenant in ("acme", "rival")
    ]
    async with running(scripted(behaviors={CLIENT_STREAM: take}), ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.DatasetServiceStub(channel).ImportDataset(iter(messages), metadata=bearer())
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert taken == ["tenants/acme"]


@every_shape
async def test_the_handler_knows_the_caller(shape: str) -> None:
    seen = []

    async def act(_context: object) -> None:
        seen.append(current_principal())

    async with running(scripted(act), ServerConfig()) as channel:
        await call(channel, shape, metadata=bearer(scopes=(SCOPES[shape],)))
    assert seen == [Principal("tester", "acme", frozenset({SCOPES[shape]}))]


FOREIGN = "tenants/rival"
REQUESTS_THAT_NAME_ANOTHER_TENANT = [
    pb.GetDatasetRequest(name=f"{FOREIGN}/datasets/d"),
    pb.ListDatasetsRequest(parent=FOREIGN),
    pb.GetDatasetRequest(name="tenants/"),
    pb.GetDatasetRequest(name="tenants"),
    pb.GetDatasetRequest(name="tenants/acme-2/datasets/d"),
    training_job_service_pb2.CreateTrainingJobRequest(
        parent="tenants/acme",
        training_job=training_job_pb2.TrainingJob(dataset_revision=f"{FOREIGN}/datasets/d/revisions/r1"),
    ),
    evaluation_service_pb2.CreateEvaluationRequest(
        parent="tenants/acme",
        evaluation=evaluation_pb2.Evaluation(adapter_revision=f"{FOREIGN}/adapters/a/revisions/r1"),
    ),
    deployment_service_pb2.DeployAdapterRequest(
        name="tenants/acme/deployments/d", adapter_revision=f"{FOREIGN}/adapters/a/revisions/r1"
    ),
    inference_service_pb2.ChatRequest(target=inference_service_pb2.Target(deployment=f"{FOREIGN}/deployments/d")),
    inference_service_pb2.GenerateRequest(
        target=inference_service_pb2.Target(adapter_revision=f"{FOREIGN}/adapters/a/revisions/r1")
    ),
]


@pytest.mark.parametrize("request_", REQUESTS_THAT_NAME_ANOTHER_TENANT, ids=lambda r: type(r).__name__)
def test_a_name_of_another_tenant_is_found_at_any_depth(request_: Any) -> None:
    with pytest.raises(PermissionDeniedError):
        check_tenant(request_, ACME)


REQUESTS_OF_ACME = [
    pb.GetDatasetRequest(name="tenants/acme/datasets/d"),
    pb.GetDatasetRequest(),
    inference_service_pb2.GenerateRequest(
        target=inference_service_pb2.Target(base_model="baseModels/m"), prompt="tenants/rival/datasets/d"
    ),
    inference_service_pb2.ChatRequest(
        target=inference_service_pb2.Target(deployment="tenants/acme/deployments/d"),
        messages=[inference_service_pb2.Message(role="user", content="tenants/rival")],
    ),
    pb.ImportDatasetRequest(data=b"tenants/rival"),
]


@pytest.mark.parametrize("request_", REQUESTS_OF_ACME, ids=lambda r: type(r).__name__)
def test_shared_things_and_text_that_looks_like_a_name_are_not_refused(request_: Any) -> None:
    check_tenant(request_, ACME)


def test_a_token_says_tenant_subject_and_scopes() -> None:
    token = ISSUER.issue(tenant="acme", subject="service:trainer", scopes=("curation.read",), ttl_s=60)
    expected = Principal("service:trainer", "acme", frozenset({"curation.read"}))
    assert VERIFIER.verify(f"Bearer {token}") == VERIFIER.verify(f"bearer {token}") == expected


def test_a_refused_token_is_not_repeated_in_the_error() -> None:
    token = signed(OTHER_KEY)
    with pytest.raises(UnauthenticatedError) as caught:
        VERIFIER.verify(f"Bearer {token}")
    assert token not in str(caught.value)


@pytest.mark.parametrize(("claim", "off_s"), [("exp", -20), ("iat", 20), ("nbf", 20)])
def test_clocks_may_differ_by_half_a_minute(claim: str, off_s: float) -> None:
    assert VERIFIER.verify(f"Bearer {signed(**{claim: time.time() + off_s})}").tenant == "acme"
