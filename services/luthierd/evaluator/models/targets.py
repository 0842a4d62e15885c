"""Who answers each arm, and what an arm needs to be named for that."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.errors import FieldViolation
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs

NEEDS = {
    Arm.ADAPTER_RAFT: "raft_adapter_revision",
    Arm.CHALLENGER: "challenger_revision",
    Arm.ENDPOINT: "endpoint",
}
# Longer than any name that an endpoint has; it becomes part of reports.
MAX_MODEL_CHARACTERS = 256


@dataclass(frozen=True)
class Target:
    """What answers: a resource name, or `endpoints/ENDPOINT/MODEL`. `sha256` is of its weights; empty for an endpoint,
    as nobody vouches for what is behind it.
    """

    name: str
    sha256: str


def target_of(arm: Arm, inputs: EvaluationInputs, config: EvaluationConfig) -> Target:
    """Who answers `arm`. The configuration has been checked: what the arm needs is there."""
    if arm is Arm.ENDPOINT:
        assert config.endpoint is not None
        return Target(f"endpoints/{config.endpoint.endpoint}/{config.endpoint.model}", "")
    if arm is Arm.ADAPTER_RAFT:
        return Target(config.raft_adapter_revision, inputs.raft_sha256)
    if arm is Arm.CHALLENGER:
        return Target(config.challenger_revision, inputs.challenger_sha256)
    if arm.uses_adapter:
        return Target(inputs.adapter_revision, inputs.adapter_sha256)
    return Target(inputs.base_model, inputs.base_model_sha256)


def target_violations(config: EvaluationConfig) -> list[FieldViolation]:
    """What is missing or too much between the arms and the fields that they need."""
    found = []
    for arm, needed in NEEDS.items():
        given = bool(getattr(config, needed))
        if arm in config.arms and not given:
            found.append(FieldViolation(f"evaluation.config.{needed}", f"arm {arm} needs it"))
        if given and arm not in config.arms:
            text = f"it is for arm {arm}, which is not among the arms; add the arm or leave this out"
            found.append(FieldViolation(f"evaluation.config.{needed}", text))
    if len(set(config.retrievers)) != len(config.retrievers):
        found.append(FieldViolation("evaluation.config.retrievers", "a retriever is named twice"))
    if config.endpoint is not None and len(config.endpoint.model) > MAX_MODEL_CHARACTERS:
        text = f"a model's name has at most {MAX_MODEL_CHARACTERS} characters"
        found.append(FieldViolation("evaluation.config.endpoint.model", text))
    return found
