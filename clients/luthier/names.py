"""Resource names: building and taking apart. `PATTERNS` lists them all."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthier.errors import InvalidNameError

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")

# Collections of each kind of resource, in the order of the name.
PATTERNS: dict[str, tuple[str, ...]] = {
    "tenant": ("tenants",),
    "dataset": ("tenants", "datasets"),
    "dataset_revision": ("tenants", "datasets", "revisions"),
    "training_job": ("tenants", "trainingJobs"),
    "adapter": ("tenants", "adapters"),
    "adapter_import": ("tenants", "adapterImports"),
    "adapter_revision": ("tenants", "adapters", "revisions"),
    "evaluation": ("tenants", "evaluations"),
    "gate_policy": ("tenants", "gatePolicies"),
    "prompt": ("tenants", "prompts"),
    "challenge_set": ("tenants", "challengeSets"),
    "annotation_queue": ("tenants", "annotationQueues"),
    "deployment": ("tenants", "deployments"),
    "base_model": ("baseModels",),
}
_KINDS = {collections: kind for kind, collections in PATTERNS.items()}


@dataclass(frozen=True)
class ResourceName:
    """A parsed name. kind: a key of `PATTERNS`. ids: one for each collection of the pattern."""

    kind: str
    ids: tuple[str, ...]

    @property
    def tenant(self) -> str:
        """The tenant's id; empty for base models, which belong to no tenant."""
        return "" if self.kind == "base_model" else self.ids[0]

    @property
    def id(self) -> str:
        """The last part."""
        return self.ids[-1]

    @property
    def parent(self) -> str:
        """The name without its last pair; empty for tenants and base models."""
        return "/".join(f"{c}/{i}" for c, i in list(zip(PATTERNS[self.kind], self.ids, strict=True))[:-1])

    def __str__(self) -> str:
        return "/".join(f"{c}/{i}" for c, i in zip(PATTERNS[self.kind], self.ids, strict=True))


def parse(name: str) -> ResourceName:
    """Takes a name apart; `InvalidNameError` if it is none."""
    parts = name.split("/")
    kind = _KINDS.get(tuple(parts[0::2]))
    ids = tuple(parts[1::2])
    if kind is None or len(parts) % 2 or not all(_ID.fullmatch(part) for part in ids):
        raise InvalidNameError(
            f"'{name}' is not a resource name; names look like '{pattern('deployment')}' or '{pattern('base_model')}'",
            metadata={"name": name},
        )
    return ResourceName(kind, ids)


def parse_as(name: str, kind: str) -> ResourceName:
    """Takes a name of one kind apart; `InvalidNameError` if it is none or of another kind."""
    try:
        parsed = parse(name)
    except InvalidNameError:
        parsed = None
    if parsed is None or parsed.kind != kind:
        raise InvalidNameError(
            f"'{name}' does not name a {kind.replace('_', ' ')}; it must look like '{pattern(kind)}'",
            metadata={"name": name, "kind": kind},
        )
    return parsed


def build(kind: str, *ids: str) -> str:
    """The name of a resource from the ids along its pattern; `InvalidNameError` if an id is not permitted."""
    for part in ids:
        if not _ID.fullmatch(part):
            raise InvalidNameError(
                f"id '{part}' is not permitted; use lower-case letters, digits and inner dashes, a letter first, "
                "at most 63 characters",
                metadata={"id": part, "kind": kind},
            )
    return str(ResourceName(kind, ids))


def pattern(kind: str) -> str:
    """The pattern of a kind for people to read, e.g. `tenants/{tenant}/datasets/{dataset}`."""
    return "/".join(f"{c}/{{{_singular(c)}}}" for c in PATTERNS[kind])


def _singular(collection: str) -> str:
    words = re.sub(r"([A-Z])", r"_\1", collection).lower()
    return words.removesuffix("ies") + "y" if words.endswith("ies") else words.removesuffix("s")


def tenant(tenant_id: str) -> str:
    return build("tenant", tenant_id)


def dataset(tenant_id: str, dataset_id: str) -> str:
    return build("dataset", tenant_id, dataset_id)


def dataset_revision(tenant_id: str, dataset_id: str, revision_id: str) -> str:
    return build("dataset_revision", tenant_id, dataset_id, revision_id)


def training_job(tenant_id: str, job_id: str) -> str:
    return build("training_job", tenant_id, job_id)


def adapter(tenant_id: str, adapter_id: str) -> str:
    return build("adapter", tenant_id, adapter_id)


def adapter_revision(tenant_id: str, adapter_id: str, revision_id: str) -> str:
    return build("adapter_revision", tenant_id, adapter_id, revision_id)


def evaluation(tenant_id: str, evaluation_id: str) -> str:
    return build("evaluation", tenant_id, evaluation_id)


def gate_policy(tenant_id: str, policy_id: str) -> str:
    return build("gate_policy", tenant_id, policy_id)


def challenge_set(tenant_id: str, set_id: str) -> str:
    return build("challenge_set", tenant_id, set_id)


def annotation_queue(tenant_id: str, queue_id: str) -> str:
    return build("annotation_queue", tenant_id, queue_id)


def deployment(tenant_id: str, deployment_id: str) -> str:
    return build("deployment", tenant_id, deployment_id)


def base_model(model_id: str) -> str:
    return build("base_model", model_id)
