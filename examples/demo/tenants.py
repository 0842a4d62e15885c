"""The demo's tenants and their state during the loop."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import Any

from luthier import AsyncClient
from luthier.curation.v1 import dataset_pb2
from luthier.evaluator.v1 import evaluation_pb2, gate_pb2, verdict_pb2
from luthier.inference.v1 import deployment_pb2
from luthier.trainer.v1 import adapter_pb2

LIBRARIES = ("scipy", "sklearn")
"""Each library is a tenant with its own style; its documented functions are the examples."""

BASE_MODEL = "baseModels/smollm2-135m"
TASK = "docstrings"


@dataclass(kw_only=True)
class Tenant:
    """A tenant with its data, adapter and deployment."""

    library: str
    client: AsyncClient
    data: pathlib.Path
    imported_row_count: int = 0
    dataset: dataset_pb2.DatasetRevision = field(default_factory=dataset_pb2.DatasetRevision)
    revisions: list[adapter_pb2.AdapterRevision] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)
    evaluation: evaluation_pb2.Evaluation = field(default_factory=evaluation_pb2.Evaluation)
    report: pathlib.Path | None = None
    verdict: verdict_pb2.Verdict = field(default_factory=verdict_pb2.Verdict)
    decision: gate_pb2.GateDecision = field(default_factory=gate_pb2.GateDecision)
    deployment: deployment_pb2.Deployment = field(default_factory=deployment_pb2.Deployment)

    @property
    def parent(self) -> str:
        """The tenant's resource name."""
        return f"tenants/{self.library}"

    @property
    def dataset_name(self) -> str:
        """Its dataset."""
        return f"{self.parent}/datasets/{TASK}"

    @property
    def adapter_name(self) -> str:
        """Its adapter."""
        return f"{self.parent}/adapters/{TASK}"

    @property
    def deployment_name(self) -> str:
        """Its deployment."""
        return f"{self.parent}/deployments/{TASK}"
