"""One service calls another: its errors keep their code, reason and data on the way to the caller."""

from __future__ import annotations

import pathlib

import luthier.errors as sdk
import pytest
from luthier.client import AsyncClient
from luthier.endpoints import Endpoints
from luthierd import errors
from luthierd.config import ServerConfig
from luthierd.errors import BY_CODE
from luthierd.rpc.peers import acting_for, endpoints_of, error_of, translated
from luthierd.rpc.status import code_of
from support.serving import ISSUER, VERIFIER

KINDS = [kind for kind in sdk.RpcError.__subclasses__() if kind.code in BY_CODE]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_peer_has_the_same_status_reason_and_data_here(kind: type[sdk.RpcError]) -> None:
    here = error_of(kind("no r1", reason="TEST_MISSING", metadata={"revision": "r1"}))
    assert code_of(here).name == kind.code
    assert (str(here), here.reason, here.metadata) == ("no r1", "TEST_MISSING", {"revision": "r1"})
    assert type(here).reason != "TEST_MISSING"  # the class is as it was


def test_every_kind_of_error_but_ours_alone_can_come_from_a_peer() -> None:
    assert {kind.code for kind in KINDS} == BY_CODE.keys()


def test_an_error_of_no_known_kind_is_internal() -> None:
    assert code_of(error_of(sdk.ProfileError("no installation"))).name == "INTERNAL"


def test_the_fields_that_a_peer_refused_are_kept() -> None:
    there = sdk.InvalidArgumentError("wrong", field_violations=[sdk.FieldViolation("rank", "is negative", "X")])
    here = error_of(there)
    assert isinstance(here, errors.InvalidArgumentError)
    assert here.violations == (errors.FieldViolation("rank", "is negative"),)


@pytest.mark.parametrize(("given", "kept"), [(None, 1.0), (7.5, 7.5)])
def test_a_peer_that_says_when_to_come_back_is_believed(given: float | None, kept: float) -> None:
    here = error_of(sdk.UnavailableError("starting", retry_after_s=given))
    assert isinstance(here, errors.UnavailableError)
    assert here.retry_after_s == kept


async def test_a_service_acts_for_one_tenant_with_the_scopes_it_needs() -> None:
    async with AsyncClient(Endpoints(), token="") as client:
        acting = acting_for("acme", client=client, issuer=ISSUER, service="trainer", scopes=("curation.read",))
        source = acting.datasets._transport._token
    assert callable(source)
    caller = VERIFIER.verify(f"Bearer {source()}")
    assert (caller.tenant, caller.subject, caller.scopes) == ("acme", "service:trainer", {"curation.read"})


async def test_a_peers_answer_is_passed_on_and_its_error_translated() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise sdk.NotFoundError("none", reason="TEST_MISSING")

    assert await translated(answer()) == 7
    with pytest.raises(errors.NotFoundError):
        await translated(fail())


def test_peers_are_where_the_configuration_says(tmp_path: pathlib.Path) -> None:
    plain = endpoints_of(ServerConfig(addresses={"trainer": "trainer:1"}))
    assert (plain.trainer, plain.tls) == ("trainer:1", None)
    secure = endpoints_of(ServerConfig(tls_ca_path=tmp_path / "ca.pem"))
    assert secure.tls is not None
    assert secure.tls.ca_file == tmp_path / "ca.pem"
