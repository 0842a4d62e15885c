"""The ways to answer that an evaluation compares."""

from __future__ import annotations

import enum


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
    def uses_adapter(self) -> bool:
        """True where the adapter under test answers."""
        return self in (Arm.ADAPTER, Arm.ADAPTER_RAG)

    @property
    def uses_retrieval(self) -> bool:
        return self in (Arm.RAG, Arm.ADAPTER_RAG, Arm.ADAPTER_RAFT)


# What is asked unless arms are named; the other arms need something more to be named.
DEFAULT_ARMS = (Arm.BASE, Arm.PROMPTED, Arm.RAG, Arm.ADAPTER, Arm.ADAPTER_RAG)
