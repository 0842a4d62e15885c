"""Resource names such as `tenants/{tenant}/datasets/{dataset}`, parsed once, where a request enters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthierd.errors import InvalidArgumentError

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
REVISION = re.compile(r"r([1-9][0-9]{0,8})")
"""Of datasets and adapters, which are numbered. Nine digits fit in any database's integer."""


_ANY = re.compile(r"(tenants|baseModels)(/[a-zA-Z0-9-]{1,63}){1,7}")


@dataclass(frozen=True)
class NamePattern:
    """A kind of name, such as `tenants/{tenant}/datasets/{dataset}`."""

    pattern: str

    def matches(self, name: str) -> bool:
        """Whether `name` is of this kind."""
        segments, given = self.pattern.split("/"), name.split("/")
        return len(segments) == len(given) and all(
            ID.fullmatch(part) if segment.startswith("{") else segment == part
            for segment, part in zip(segments, given, strict=True)
        )

    def parse(self, name: str, *, field: str = "name") -> tuple[str, ...]:
        """The variable parts of `name`, in order. InvalidArgumentError names `field` if the name does not match."""
        if not self.matches(name):
            raise InvalidArgumentError.of_field(
                field, f"{name!r} is not a name of the form {self.pattern} (ids: {ID.pattern})"
            )
        segments = self.pattern.split("/")
        return tuple(part for segment, part in zip(segments, name.split("/"), strict=True) if segment.startswith("{"))

    def format(self, *parts: str) -> str:
        """The name made of `parts`."""
        values = iter(parts)
        return "/".join(next(values) if segment.startswith("{") else segment for segment in self.pattern.split("/"))


TENANT = NamePattern("tenants/{tenant}")
DATASET = NamePattern("tenants/{tenant}/datasets/{dataset}")
DATASET_REVISION = NamePattern("tenants/{tenant}/datasets/{dataset}/revisions/{revision}")
TRAINING_JOB = NamePattern("tenants/{tenant}/trainingJobs/{training_job}")
ADAPTER_IMPORT = NamePattern("tenants/{tenant}/adapterImports/{adapter_import}")
ADAPTER = NamePattern("tenants/{tenant}/adapters/{adapter}")
ADAPTER_REVISION = NamePattern("tenants/{tenant}/adapters/{adapter}/revisions/{revision}")
EVALUATION = NamePattern("tenants/{tenant}/evaluations/{evaluation}")
HOLDOUT = NamePattern("tenants/{tenant}/datasets/{dataset}/revisions/{revision}/holdout")
GATE_POLICY = NamePattern("tenants/{tenant}/gatePolicies/{gate_policy}")
PROMPT = NamePattern("tenants/{tenant}/prompts/{prompt}")
CHALLENGE_SET = NamePattern("tenants/{tenant}/challengeSets/{challenge_set}")
ANNOTATION_QUEUE = NamePattern("tenants/{tenant}/annotationQueues/{annotation_queue}")
DEPLOYMENT = NamePattern("tenants/{tenant}/deployments/{deployment}")
CAPTURE_POLICY = NamePattern("tenants/{tenant}/capturePolicy")
CAPTURE_FILE = NamePattern("tenants/{tenant}/captureFiles/{capture_file}")
QUOTA = NamePattern("tenants/{tenant}/quota")
BASE_MODEL = NamePattern("baseModels/{base_model}")


def parse_id(value: str, *, field: str) -> str:
    """`value` if it can be the last part of a name; InvalidArgumentError otherwise."""
    if not ID.fullmatch(value):
        raise InvalidArgumentError.of_field(field, f"{value!r} does not match {ID.pattern}")
    return value


def check_name(name: str, *, field: str) -> None:
    """InvalidArgumentError unless `name` can be the name of a resource of any kind."""
    if not _ANY.fullmatch(name):
        raise InvalidArgumentError.of_field(field, f"{name!r} is not the name of a resource")


def revision_number(revision: str) -> int | None:
    """The number of a revision's id, such as `r12`; None if no revision can have the id."""
    found = REVISION.fullmatch(revision)
    return int(found[1]) if found else None
