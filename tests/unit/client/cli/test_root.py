"""The root: help, common options, exit codes, what a person reads when something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys

import click
import grpc
import pytest
from luthier import profiles
from luthier.cli.main import COMMANDS, root

JOB = "tenants/acme/trainingJobs/j1"
RUN = [sys.executable, "-c", "from luthier.cli.main import main; main()"]
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
AS_IN_A_TERMINAL = [*RUN[:2], HEED + RUN[2]]
"""A shell's background jobs, and their children, are born deaf to Ctrl-C."""


def every_command():
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {verb}", found) for verb, found in command.commands.items())
        else:
            yield name, command


def test_the_commands_are_those_that_are_promised():
    assert {name for name, _ in every_command()} == {
        *(
            "up",
            "down",
            "status",
            "doctor",
            "train",
            "evaluate",
            "verdict",
            "compare",
            "generate",
            "chat",
            "batch",
            "score",
        ),
        *("gate run", "gate plan", "gate selftest"),
        *("deploy", "promote", "rollback", "undeploy", "deployments"),
        *("verdict", "compare", "holdout show", "holdout ledger"),
        *("model import", "model list", "adapters list", "adapters import", "adapters export"),
        *("auth issue", "auth revoke", "auth rotate", "engine use", "engine show"),
        *("dataset import", "dataset curate", "dataset show", "dataset list", "dataset export"),
        *("jobs list", "jobs watch", "jobs cancel"),
        *("feedback record", "feedback export", "capture show", "capture set", "capture list"),
        *("quota list", "quota show", "quota set"),
        "import-eval",
        *("prompt optimise", "prompt show", "prompt list", "prompt cancel"),
        *(f"annotate {verb}" for verb in ("create", "rate", "next", "vote", "list", "votes", "summary")),
        *("challenge generate", "challenge upload", "challenge list", "challenge show"),
        *("pin", "unpin", "prefetch", "traffic set", "traffic show"),
        *(f"{noun} delete" for noun in ("dataset", "model", "adapters", "jobs", "prompt", "challenge", "annotate")),
        *("gate delete", "capture delete", "storage"),
    }


@pytest.mark.parametrize("name", [name for name, _ in every_command()])
def test_every_command_has_a_help_and_the_common_options(name):
    command = dict(every_command())[name]
    assert command.help
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--tenant", "--endpoint", "--debug"} <= options


def test_the_help_is_quick_and_loads_neither_grpc_nor_rich_nor_torch():
    probe = (
        "import sys\nfrom luthier.cli.main import run\nassert run(['--help']) == 0\n"
        "loaded = {'grpc', 'google.protobuf', 'rich', 'yaml', 'torch', 'luthierd'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    took_s = []
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    for _ in range(3):
        started_s = _children_s()
        subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, env=unmeasured)
        took_s.append(_children_s() - started_s)
    assert min(took_s) < 0.3


def _children_s() -> float:
    """Processor time of ended children: unlike the clock's, it does not grow with the load of the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_no_command_loads_torch():
    probe = (
        "import sys, click\nfrom luthier.cli.main import COMMANDS, root\n"
        "[root.get_command(click.Context(root), name) for name in COMMANDS]\n"
        "assert not {'torch', 'transformers', 'luthierd'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)


async def test_a_mistyped_command_is_told_the_nearest_one(luthier):
    found = await luthier("trian", "x")
    assert found.code == 64
    assert "did you mean 'train'?" in found.err


@pytest.mark.parametrize("arguments", [["train", "x"], ["train", "--no-such"], ["dataset", "frobnicate"], []])
async def test_wrong_usage_is_64_and_not_the_code_of_inconclusive(luthier, arguments):
    found = await luthier(*arguments)
    assert found.code == 64
    assert "Usage:" in found.err


async def test_without_an_installation_the_message_says_how_to_start_one(luthier, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = await luthier("dataset", "list")
    assert found.code == 69
    assert "luthier up" in found.err
    assert "Traceback" not in found.err


async def test_a_dead_service_is_named_with_its_address(services, luthier):
    found = await luthier("dataset", "list", "--endpoint", "127.0.0.1:1")
    assert found.code == 69
    assert "the curation service at 127.0.0.1:1 does not answer" in found.err
    assert "(SERVICE_UNREACHABLE)" in found.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.NOT_FOUND, 65),
        (grpc.StatusCode.INVALID_ARGUMENT, 65),
        (grpc.StatusCode.FAILED_PRECONDITION, 65),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 65),
        (grpc.StatusCode.PERMISSION_DENIED, 77),
        (grpc.StatusCode.UNAUTHENTICATED, 77),
        (grpc.StatusCode.INTERNAL, 70),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 69),
    ],
)
async def test_each_kind_of_refusal_has_its_exit_code(services, luthier, refuse, status, code):
    services.answers["GetTrainingJob"] = refuse(status, "SOME_REASON", field="name")
    services.answers["WatchTrainingJob"] = [refuse(status, "SOME_REASON", field="name")]
    found = await luthier("jobs", "watch", JOB)
    assert found.code == code
    assert "refused: SOME_REASON" in found.err
    assert "name: too large" in found.err


async def test_with_json_an_error_is_a_document_too(services, luthier, refuse):
    services.answers["ListDatasets"] = refuse(grpc.StatusCode.NOT_FOUND, "DATASET_NOT_FOUND", dataset="d")
    found = await luthier("dataset", "list", "--json")
    [line] = found.lines
    assert (line["event"], line["reason"], line["code"]) == ("error", "DATASET_NOT_FOUND", "NOT_FOUND")
    assert line["metadata"] == {"dataset": "d"}
    assert found.err == ""


async def test_a_fault_of_a_service_names_the_call_in_its_log(services, luthier, refuse):
    services.answers["ListDatasets"] = refuse(grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "(INTERNAL, request r-1 in the log of curation)" in (await luthier("dataset", "list")).err


async def test_a_quota_says_when_to_try_again(services, luthier, refuse):
    services.answers["ListDatasets"] = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA", retry_after_s=12)
    assert "try again in 12 s" in (await luthier("dataset", "list")).err


async def test_debug_shows_the_trace(services, luthier, refuse):
    services.answers["ListDatasets"] = refuse(grpc.StatusCode.NOT_FOUND, "X")
    assert "Traceback" in (await luthier("--debug", "dataset", "list")).err


async def test_a_defect_is_told_without_a_trace(services, luthier, monkeypatch):
    monkeypatch.setattr("luthier.cli.session.Session.run", lambda *_: 1 / 0)
    found = await luthier("dataset", "list")
    assert found.code == 70
    assert "--debug" in found.err
    assert "Traceback" not in found.err


async def test_the_tenant_nearest_to_the_command_wins(services, luthier):
    await luthier("--tenant", "first", "dataset", "list", "--tenant", "second")
    assert services.asked["ListDatasets"][0].parent == "tenants/second"


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "cancel", "tenants/other/trainingJobs/j1"],
        ["dataset", "show", "tenants/other/datasets/d"],
        ["adapters", "list", "tenants/other/adapters/a"],
        ["deploy", "d", "tenants/other/adapters/a/revisions/r1"],
        ["evaluate", "tenants/other/adapters/a/revisions/r1", "--detach"],
        ["train", "a", "--base", "m", "--dataset", "tenants/other/datasets/d/revisions/r1"],
        ["rollback", "tenants/other/deployments/d"],
        ["chat", "hi", "--deployment", "tenants/other/deployments/d"],
    ],
)
async def test_a_whole_name_brings_its_tenant_along(services, luthier, monkeypatch, arguments):
    asked = []
    resolve = profiles.resolve
    monkeypatch.setattr(profiles, "resolve", lambda **options: asked.append(options["tenant"]) or resolve(**options))
    await luthier(*arguments)
    assert asked == ["other"]
    await luthier("--tenant", "mine", *arguments)
    assert asked == ["other", "mine"]


async def test_ctrl_c_leaves_the_job_running_and_says_how_to_watch_it_again(services):
    services.answers["WatchTrainingJob"] = [{"event": {"event_id": 1, "message": "warming up"}}, ...]

    def interrupt() -> tuple[int, str]:
        process = subprocess.Popen(
            [*AS_IN_A_TERMINAL, "jobs", "watch", JOB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert "warming up" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        return process.returncode, err

    code, err = await asyncio.to_thread(interrupt)
    assert code == 130
    assert f"luthier jobs watch {JOB}" in err
    assert "Traceback" not in err
    assert "CancelTrainingJob" not in services.asked


async def test_a_reader_that_goes_away_is_no_error(services):
    services.answers["ListDatasets"] = {"datasets": [{"name": f"tenants/acme/datasets/d{i}"} for i in range(5000)]}

    def head() -> tuple[int, bytes]:
        with subprocess.Popen([*RUN, "dataset", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            return process.wait(timeout=20), process.stderr.read()

    code, err = await asyncio.to_thread(head)
    assert (code, err) == (0, b"")


def test_json_usage_errors_are_documents():
    done = subprocess.run([*RUN, "train", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert json.loads(done.stdout)["reason"] == "USAGE"
