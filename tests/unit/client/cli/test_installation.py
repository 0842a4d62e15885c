"""up, down, status, doctor, auth."""

from __future__ import annotations

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from luthier import health
from luthier.cli import doctor, installation
from luthierd.config import ServerConfig
from luthierd.errors import UnauthenticatedError
from luthierd.rpc.auth import TokenVerifier
from luthierd.rpc.keys import create_keys

SERVING = {
    name: {"health": "SERVING", "address": f"127.0.0.1:{7101 + i}", "pid": 10 + i}
    for i, name in enumerate(["curation", "trainer", "evaluator", "inference"])
}


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """Puts a supervisor in place of ours; returns a function that writes what it prints and how it ends."""

    def write(*lines: str, code: int = 0) -> None:
        package = tmp_path / "fake" / "luthierd"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("")
        prints = "\n".join(f"print({line!r}, flush=True)" for line in lines)
        check = "import os, sys\nassert 'LUTHIER_TENANT' not in os.environ\n"
        (package / "supervisor.py").write_text(f"{check}{prints}\nsys.exit({code})\n")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("LUTHIER_TENANT", "acme")
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LUTHIER_ENDPOINT", raising=False)
    return write


def result(services) -> str:
    import json

    return json.dumps({"event": "result", "services": services, "stopped": sorted(services)})


async def test_up_tells_each_service_and_ends_with_the_table(supervisor, luthier):
    supervisor(
        '{"event": "starting", "service": "trainer", "pid": 1, "log": "logs/trainer.log"}',
        "noise of a library",
        '{"event": "serving", "service": "trainer", "address": "127.0.0.1:7102"}',
        result(SERVING),
    )
    found = await luthier("up")
    assert found.code == 0
    assert "trainer serves on 127.0.0.1:7102" in found.err
    assert "SERVING" in found.out
    assert [line["event"] for line in (await luthier("up", "--json")).lines] == ["starting", "serving", "result"]


async def test_a_port_in_use_is_told_in_the_supervisors_words(supervisor, luthier):
    supervisor('{"event": "error", "reason": "PORT_IN_USE", "message": "port 7101 is taken"}', code=1)
    found = await luthier("up")
    assert found.code == 65
    assert "port 7101 is taken" in found.err
    assert "(PORT_IN_USE)" in found.err


async def test_a_supervisor_that_dies_is_told(supervisor, luthier):
    supervisor(code=3)
    found = await luthier("down")
    assert found.code == 65
    assert "code 3" in found.err


async def test_an_interrupted_up_ends_its_supervisor(supervisor):
    supervisor('{"event": "starting", "service": "trainer", "pid": 1, "log": "x"}', "import_time")
    events = installation.supervise("up")
    assert next(events)["event"] == "starting"
    events.close()


async def test_status_is_69_when_something_does_not_serve(supervisor, luthier):
    supervisor(result(SERVING))
    assert (await luthier("status")).code == 0
    supervisor(result(SERVING | {"trainer": {"health": "DEAD", "address": "127.0.0.1:7102"}}))
    found = await luthier("status")
    assert found.code == 69
    assert "luthier up" in found.err


async def test_down_says_what_it_stopped(supervisor, luthier):
    supervisor('{"event": "stopping", "service": "trainer", "pid": 1}', result(SERVING))
    found = await luthier("down")
    assert found.code == 0
    assert "stopping trainer" in found.err
    assert found.out.startswith("stopped curation")


async def test_up_is_for_this_machine_only(luthier):
    assert (await luthier("up", "--endpoint", "h")).code == 64


async def test_without_the_servers_up_says_what_to_install(luthier, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = await luthier("up")
    assert found.code == 65
    assert "make setup" in found.err


async def test_the_status_of_a_remote_installation_is_asked_over_grpc(luthier, monkeypatch):
    async def check(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return b"\x08\x01"  # HealthCheckResponse(status=SERVING)

    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setattr(health, "TIMEOUT_S", 1.0)
    found = await luthier("status", "--endpoint", f"127.0.0.1:{port}", "--json")
    assert found.code == 69
    assert found.lines[0]["services"]["curation"]["health"] == "SERVING"
    assert found.lines[0]["services"]["trainer"]["health"] == "UNREACHABLE"
    await server.stop(None)


async def test_doctor_says_for_each_check_how_it_is_and_what_to_do(luthier, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LUTHIER_ENDPOINT", raising=False)
    monkeypatch.setattr(doctor, "_is_taken", lambda port: False)
    found = await luthier("doctor", "--json")
    findings = {finding["check"]: finding for finding in found.lines[0]["findings"]}
    assert findings["python"]["outcome"] == "ok"
    assert "luthier up" in findings["installation"]["advice"]
    assert {"processor", "memory", "disk", "luthier", "extra trainer"} <= set(findings)


async def test_doctor_asks_services_and_engine(services, luthier, refuse):
    services.answers["GetEngine"] = {"engine": {"state": 3, "base_model": "baseModels/m", "version": "vllm 0.32.0"}}
    found = await luthier("doctor")
    assert found.code == 0
    assert "READY, baseModels/m, vllm 0.32.0" in found.out
    services.answers["GetEngine"] = {"engine": {"state": 4, "error": {"message": "no memory"}}}
    assert (await luthier("doctor")).code == 1
    services.answers["GetEngine"] = refuse(grpc.StatusCode.INTERNAL, "DEFECT")
    assert "refused: DEFECT" in (await luthier("doctor")).out


async def test_doctor_finds_services_that_do_not_answer(luthier):
    found = await luthier("doctor", "--endpoint", "127.0.0.1:1")
    assert found.code == 1
    assert "UNREACHABLE at 127.0.0.1:2" in found.out


@pytest.mark.parametrize(
    ("flags", "outcome", "words"),
    [
        ("fpu avx2 avx512f avx512_bf16", "ok", "bfloat16"),
        ("fpu avx2", "ok", "float32"),
        ("fpu sse4_2", "fail", "no AVX2"),
    ],
)
def test_the_processor_is_judged_by_what_the_engine_needs(tmp_path, monkeypatch, flags, outcome, words):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    finding = doctor._processor(tmp_path / "cpuinfo")
    assert finding.outcome == outcome
    assert words in finding.found


@pytest.mark.parametrize(("kib", "outcome"), [(8 * 2**20, "ok"), (2 * 2**20, "warn")])
def test_little_memory_is_a_warning(tmp_path, kib, outcome):
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {kib} kB\n")
    assert doctor._memory(tmp_path / "meminfo").outcome == outcome
    assert doctor._memory(tmp_path / "none").outcome == "warn"


def test_an_old_python_and_a_taken_port_are_faults(monkeypatch):
    import socket

    assert doctor._python((3, 10, 1)).outcome == "fail"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "PORTS", {"LUTHIER_TEST_PORT": taken.getsockname()[1]})
        [finding] = doctor._ports()
    assert finding.outcome == "fail"
    assert "LUTHIER_TEST_PORT" in finding.advice


@pytest.fixture
def signing_key(tmp_path, monkeypatch):
    private = Ed25519PrivateKey.generate()
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (keys / "private.pem").write_bytes(private.private_bytes(*encoding))
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return private.public_key()


async def test_a_token_carries_tenant_scopes_and_expiry(signing_key, luthier):
    options = ["--tenant", "acme", "--scopes", "curation.read, inference.generate", "--ttl", "30m"]
    found = await luthier("auth", "issue", *options)
    assert found.code == 0
    claims = jwt.decode(found.out.strip(), signing_key, algorithms=["EdDSA"], audience="luthier")
    assert (claims["tenant"], claims["scope"]) == ("acme", "curation.read inference.generate")
    assert claims["exp"] - claims["iat"] == 1800


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scopes", "curation.raed", "--tenant", "acme"], "curation.read"),
        (["--ttl", "soon", "--tenant", "acme"], "90d"),
        (["--tenant", "Not An Id"], "not permitted"),
        ([], "--tenant T"),
    ],
)
async def test_a_token_that_cannot_be_is_refused(signing_key, luthier, options, words):
    found = await luthier("auth", "issue", *options)
    assert found.code == 64
    assert words in found.err


async def test_without_a_key_issuing_says_whose_it_is(luthier, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    found = await luthier("auth", "issue", "--tenant", "acme")
    assert found.code == 69
    assert "luthier up" in found.err


async def test_a_token_is_revoked_by_itself_by_its_id_or_by_its_subject(signing_key, luthier, tmp_path):
    create_keys(tmp_path / "home" / "keys")
    issued = [(await luthier("auth", "issue", "--tenant", "acme", "--json")).lines[0] for _ in range(3)]
    verifier = TokenVerifier.of(ServerConfig(home=tmp_path / "home"))
    assert (await luthier("auth", "revoke", issued[0]["token"])).code == 0
    assert (await luthier("auth", "revoke", "--id", issued[1]["id"])).code == 0
    refused = []
    for one in issued:
        try:
            verifier.verify(f"Bearer {one['token']}")
        except UnauthenticatedError:
            refused.append(one)
    assert refused == issued[:2]
    assert (await luthier("auth", "revoke", "--subject", "*", "--tenant", "acme")).code == 0
    with pytest.raises(UnauthenticatedError, match="revoked"):
        verifier.verify(f"Bearer {issued[2]['token']}")


@pytest.mark.parametrize("options", [[], ["--id", "x", "--subject", "y"], ["--subject", "y"], ["not.a.token"]])
async def test_a_revocation_that_names_no_token_changes_nothing(signing_key, luthier, options, tmp_path):
    assert (await luthier("auth", "revoke", *options)).code != 0
    assert not (tmp_path / "home" / "keys" / "revoked.jsonl").exists()


async def test_a_key_is_rotated_in_two_steps(signing_key, luthier, tmp_path):
    old = (await luthier("auth", "issue", "--tenant", "acme")).out.strip()
    assert "2 keys" in (await luthier("auth", "rotate")).err
    verifier = TokenVerifier.of(ServerConfig(home=tmp_path / "home"))
    assert verifier.verify(f"Bearer {old}").tenant == "acme"
    assert (await luthier("auth", "rotate", "--finish")).code == 0
    with pytest.raises(UnauthenticatedError):
        verifier.verify(f"Bearer {old}")


async def test_the_engine_is_given_another_base_model_and_waited_for(services, luthier):
    engine = {"state": "ENGINE_STATE_READY", "base_model": "baseModels/other"}
    services.answers["StartEngine"] = {"engine": {**engine, "state": "ENGINE_STATE_DRAINING"}}
    services.answers["GetEngine"] = {"engine": engine}
    found = await luthier("engine", "use", "other", "--force", "--drain", "2m")
    [request] = services.asked["StartEngine"]
    assert (request.base_model, request.force, request.drain_timeout.seconds) == ("baseModels/other", True, 120)
    assert (found.code, found.out) == (0, "baseModels/other  READY\n")
    assert (await luthier("engine", "use", "other", "--drain", "soon")).code == 64
