"""deploy/ci/action.yml and the pytest plugin, run as CI runs them: their own shell steps, the installed command, a real
evaluator server.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from support.running_evaluator import ADAPTER, RunningEvaluator, running_evaluator

CI = pathlib.Path(__file__).parents[3] / "deploy/ci"
ACTION = yaml.safe_load((CI / "action.yml").read_text())
PROVABLE = """
conditions:
  - {metric: rouge_l, reference: base}
  - {metric: json_valid, reference: base, tier: supporting}
limits:
  - {quantity: cost_per_1000, at_most: 5}
"""
HOPELESS = "conditions: [{metric: rouge_l, arm: base, at_least: 0.9}]"
UNDECIDED = "conditions: [{metric: chrf, reference: base}]"


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[RunningEvaluator]:
    folder = tmp_path / "server"
    folder.mkdir()
    async with running_evaluator(folder) as found:
        yield found


async def shell(script: str, folder: pathlib.Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """A step's script as a runner runs it: exit code and everything printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LUTHIER_")}
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash",
        "--noprofile",
        "--norc",
        "-e",
        "-o",
        "pipefail",
        "-c",
        script,
        cwd=folder,
        env={**kept, "HOME": str(folder), "PATH": path, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


class Runner:
    """As much of a CI runner as a composite action needs: inputs, outputs of steps, a summary."""

    def __init__(self, folder: pathlib.Path, given: Mapping[str, str]) -> None:
        self.folder = folder
        self.inputs = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()} | dict(given)
        self.outputs: dict[str, dict[str, str]] = {}
        self.summary = folder / "summary.md"

    async def run(self) -> tuple[int, str]:
        """Every step until one fails."""
        for step in ACTION["runs"]["steps"]:
            if step.get("if") == "inputs.install != ''" and not self.inputs["install"]:
                continue
            output = self.folder / f"output-{step.get('id', 'none')}"
            environment = {name: self.resolved(value) for name, value in step["env"].items()}
            environment |= {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.summary)}
            code, printed = await shell(step["run"], self.folder, environment)
            lines = output.read_text().splitlines() if output.exists() else []
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in lines)
            if code:
                return code, printed
        return 0, printed

    def resolved(self, value: str) -> str:
        def look_up(match: re.Match[str]) -> str:
            parts = match[1].split(".")
            if parts[0] == "inputs":
                return self.inputs[parts[1]]
            assert (parts[0], parts[2]) == ("steps", "outputs"), match[0]
            return self.outputs[parts[1]][parts[3]]

        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", look_up, str(value))


def runner(folder: pathlib.Path, server: RunningEvaluator, policy: str, **given: str) -> Runner:
    (folder / "policy.yaml").write_text(policy)
    (folder / "config.yaml").write_text("arms: [base, adapter]\nresample_count: 300\n")
    chosen = {"policy": "policy.yaml", "endpoint": server.endpoint, "token": server.token, "config": "config.yaml"}
    return Runner(folder, chosen | {"install": "", "adapter-revision": ADAPTER} | given)


async def test_the_action_evaluates_the_adapter_judges_it_and_writes_what_ci_shows(
    server: RunningEvaluator, tmp_path: pathlib.Path
) -> None:
    job = runner(tmp_path, server, PROVABLE)
    code, printed = await job.run()
    assert code == 0, printed
    assert job.outputs["gate"]["outcome"] == "GO"
    evaluation = job.outputs["evaluate"]["evaluation"]
    assert evaluation.startswith("tenants/acme/evaluations/")
    assert job.summary.read_text().startswith("## Luthier gate: ✅ GO")
    suite = ElementTree.parse(tmp_path / "luthier-gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "0")
    assert (tmp_path / "luthier-report.html").read_text().startswith("<!DOCTYPE html>")

    again = runner(tmp_path, server, HOPELESS, evaluation=evaluation)
    code, printed = await again.run()
    assert (code, again.outputs["gate"]["outcome"]) == (1, "NO_GO"), printed
    suite = ElementTree.parse(tmp_path / "luthier-gate.xml").getroot()
    assert suite.get("failures") == "1"
    assert "❌ NO-GO" in again.summary.read_text()

    unsure = runner(tmp_path, server, UNDECIDED, evaluation=evaluation)
    assert (await unsure.run())[0] == 2
    allowed = runner(tmp_path, server, UNDECIDED, evaluation=evaluation, **{"inconclusive-ok": "true"})
    assert (await allowed.run())[0] == 0
    assert allowed.outputs["gate"]["outcome"] == "INCONCLUSIVE"


async def test_the_action_fails_with_the_command_s_code_when_nothing_can_be_judged(
    server: RunningEvaluator, tmp_path: pathlib.Path
) -> None:
    job = runner(tmp_path, server, PROVABLE, evaluation="tenants/acme/evaluations/none")
    code, printed = await job.run()
    assert code == 65
    assert "there is no evaluation" in printed


def test_no_input_becomes_part_of_a_script() -> None:
    assert not [step["run"] for step in ACTION["runs"]["steps"] if "${{" in step["run"]]


def test_the_example_workflow_uses_the_action_with_inputs_that_it_has() -> None:
    workflow: Any = yaml.safe_load((CI / "gate-adapter.yml").read_text())
    (step,) = [step for step in workflow["jobs"]["gate"]["steps"] if step.get("uses") == "./deploy/ci"]
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert {name for name, one in ACTION["inputs"].items() if one.get("required")} <= set(step["with"])
    assert not [one["run"] for one in workflow["jobs"]["gate"]["steps"] if "${{" in one.get("run", "")]


TESTS = """
import pytest

def test_go(luthier_gate):
    assert luthier_gate("{evaluation}", policy="policy.yaml").evaluation == "{evaluation}"

def test_no_go(luthier_gate):
    luthier_gate("{evaluation}", policy="hopeless.yaml")

def test_inconclusive(luthier_gate):
    luthier_gate("{evaluation}", policy="undecided.yaml")

def test_inconclusive_may_be_skipped(luthier_gate):
    luthier_gate("{evaluation}", policy="undecided.yaml", inconclusive_ok=True)
"""


async def test_the_pytest_fixture_fails_a_test_unless_the_gate_says_go(
    server: RunningEvaluator, tmp_path: pathlib.Path
) -> None:
    job = runner(tmp_path, server, PROVABLE)
    await job.run()
    (tmp_path / "hopeless.yaml").write_text(HOPELESS)
    (tmp_path / "undecided.yaml").write_text(UNDECIDED)
    (tmp_path / "test_gate.py").write_text(TESTS.replace("{evaluation}", job.outputs["evaluate"]["evaluation"]))
    command = f"{sys.executable} -m pytest test_gate.py -rA -p no:cacheprovider"
    code, printed = await shell(command, tmp_path, server.environment)
    assert code == 1
    assert "2 failed, 1 passed, 1 skipped" in printed
    assert "the gate says NO_GO" in printed
    assert "BREACH: rouge_l of base above 0.9: disproved" in printed


async def test_a_start_of_pytest_without_the_fixture_loads_nothing_of_ours(tmp_path: pathlib.Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\ndef test_plain():\n"
        "    assert 'luthier.pytest_plugin' in sys.modules\n"
        "    assert not {'grpc', 'google.protobuf', 'luthier.client', 'yaml', 'luthierd'} & sys.modules.keys()\n"
    )
    command = f"{sys.executable} -m pytest test_plain.py -q -p no:cacheprovider"
    code, printed = await shell(command, tmp_path, {"PYTEST_ADDOPTS": "", "COV_CORE_SOURCE": ""})
    assert code == 0, printed
