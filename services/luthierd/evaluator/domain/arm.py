"""The ways to answer that an evaluation compares. An arm is added here, and to the enum of the contract."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Arm(enum.StrEnum):
    """One way to answer the holdout. The order is the order in which they are asked."""

    BASE = "base"
    PROMPTED = "prompted"
    RAG = "rag"
    ADAPTER = "adapter"
    ADAPTER_RAG = "adapter_rag"
    ADAPTER_RAFT = "adapter_raft"
    CHALLENGER = "challenger"
    ENDPOINT = "endpoint"

    @property
    def spec(self) -> ArmSpec:
        """What is known of it."""
        return SPECS[self]

    @property
    def uses_adapter(self) -> bool:
        """True where the adapter under test answers."""
        return self.spec.is_under_test

    @property
    def uses_retrieval(self) -> bool:
        return self.spec.uses_retrieval


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """What is known of an arm.

    `name_of` and `sha256_of`: the fields of `EvaluationInputs` with the weights that answer. `needs`: the field of
    `EvaluationConfig` that the arm requires; it then holds their name.
    """

    label: str
    advice: str
    """What a verdict says that recommends it."""
    effort: int
    """The verdict's order: what has to be built, and rebuilt when the data changes."""
    refresh: str
    """What has to be done when the data changes."""
    name_of: str = "base_model"
    sha256_of: str = "base_model_sha256"
    needs: str = ""
    is_under_test: bool = False
    """The adapter under test answers."""
    uses_retrieval: bool = False
    is_instructed: bool = False
    """The instruction is sent, and fixed examples unless retrieval finds some. An adapter was not trained with it."""
    compared_with: tuple[Arm, ...] = ()
    """The arms that it is compared with, in the order of reports."""
    rival_of: tuple[Arm, ...] = ()
    """The arms that are compared with it."""


SPECS: Mapping[Arm, ArmSpec] = {
    Arm.BASE: ArmSpec(
        label="Base",
        advice="Use the base model as it is, do not fine-tune",
        effort=0,
        refresh="nothing",
    ),
    Arm.PROMPTED: ArmSpec(
        label="Prompted",
        advice="Prompt, do not fine-tune",
        effort=1,
        refresh="choose instruction and examples again",
        is_instructed=True,
        compared_with=(Arm.BASE,),
    ),
    Arm.RAG: ArmSpec(
        label="RAG",
        advice="Retrieve, do not fine-tune",
        effort=3,
        refresh="index again",
        is_instructed=True,
        uses_retrieval=True,
        compared_with=(Arm.BASE, Arm.PROMPTED),
    ),
    Arm.ADAPTER: ArmSpec(
        label="Adapter",
        advice="Fine-tune",
        effort=4,
        refresh="train again",
        is_under_test=True,
        compared_with=(Arm.BASE, Arm.PROMPTED, Arm.RAG),
        name_of="adapter_revision",
        sha256_of="adapter_sha256",
    ),
    Arm.ADAPTER_RAG: ArmSpec(
        label="Adapter + RAG",
        advice="Fine-tune, and retrieve",
        effort=6,
        refresh="train and index again",
        is_under_test=True,
        uses_retrieval=True,
        compared_with=(Arm.BASE, Arm.PROMPTED, Arm.RAG, Arm.ADAPTER),
        name_of="adapter_revision",
        sha256_of="adapter_sha256",
    ),
    Arm.ADAPTER_RAFT: ArmSpec(
        label="Adapter for retrieval + RAG",
        advice="Fine-tune for retrieval, and retrieve",
        effort=7,
        refresh="train and index again",
        needs="raft_adapter_revision",
        sha256_of="raft_sha256",
        uses_retrieval=True,
        compared_with=(Arm.RAG, Arm.ADAPTER, Arm.ADAPTER_RAG),
    ),
    Arm.CHALLENGER: ArmSpec(
        label="Other adapter",
        advice="Fine-tune, and use the challenger",
        effort=5,
        refresh="train again",
        needs="challenger_revision",
        sha256_of="challenger_sha256",
        rival_of=(Arm.ADAPTER,),
    ),
    Arm.ENDPOINT: ArmSpec(
        label="Endpoint",
        advice="Use the endpoint's model, do not fine-tune",
        effort=2,
        refresh="nothing",
        needs="endpoint",
        sha256_of="",
        rival_of=(Arm.ADAPTER, Arm.ADAPTER_RAG),
    ),
}


def _pairs() -> tuple[tuple[Arm, Arm], ...]:
    # The arms of the adapter under test first, those that must be named last.
    order = sorted(Arm, key=lambda arm: (bool(arm.spec.needs), not arm.uses_adapter))
    own = [(arm, reference) for arm in order for reference in arm.spec.compared_with]
    return (*own, *((arm, rival) for rival in Arm for arm in rival.spec.rival_of))


DEFAULT_ARMS = tuple(arm for arm in Arm if not arm.spec.needs)
ADAPTER_FIELDS = {arm.spec.needs: arm.spec.sha256_of for arm in Arm if arm.spec.needs and arm.spec.sha256_of}
"""The fields of a configuration that name additional adapters, and those of the inputs with their digests."""
PAIRS = _pairs()
"""The (arm, reference) whose differences are reported, and can be gated."""
