"""Challenge sets as a resource: proposing cases of a dataset, and keeping those that people have reviewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.errors import InvalidArgumentError, NotFoundError
from luthierd.evaluator.dataset.rows import parse_rows
from luthierd.evaluator.domain.evaluation import SPLITS, DatasetRevision
from luthierd.evaluator.suites.challenge_cases import ChallengeCase, check_cases, read_cases, write_cases
from luthierd.evaluator.suites.challenge_generation import generate_cases
from luthierd.names import CHALLENGE_SET, DATASET_REVISION, TENANT
from luthierd.paging import Page, PageRequest
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import BlobStore

MAX_PER_KIND = 100
ID_DIGITS = 40
"""160 bits of a digest: enough that two sets of a tenant never share a name, short enough for an id."""
MAX_PROPOSAL_BYTES = 8 * 1024 * 1024
"""Half of what one message may hold (ServerConfig.max_message_bytes)."""


class ChallengeSetNotFoundError(NotFoundError):
    """No such set."""

    reason = "CHALLENGE_SET_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no challenge set {name}; upload one with `luthier challenge upload`",
            metadata={"challenge_set": name},
        )


@dataclass(frozen=True)
class ChallengeSet:
    """A set under its name. `create_time` is Unix time, `reviewer` the subject that uploaded it."""

    name: str
    sha256: str
    kind_counts: Mapping[str, int]
    reviewer: str
    create_time: float

    @property
    def case_count(self) -> int:
        return sum(self.kind_counts.values())


class ChallengeSetStore(Protocol):
    """Where sets are kept."""

    async def add(self, found: ChallengeSet) -> ChallengeSet:
        """Keeps a set; returns the one that is kept under the name, this one or an earlier one."""

    async def get(self, name: str) -> ChallengeSet:
        """ChallengeSetNotFoundError."""

    async def list(self, name_prefix: str, page: PageRequest) -> Page[ChallengeSet]:
        """By name."""


class Datasets(Protocol):
    """Curation, called on behalf of a tenant."""

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision: ...


class ChallengeSets:
    """The use cases of `ChallengeSetService`."""

    def __init__(
        self, store: ChallengeSetStore, datasets: Datasets, blobs: BlobStore, *, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._blobs = blobs
        self._now = now

    async def generate(
        self, dataset_revision: str, *, split: str, per_kind_count: int, seed: int
    ) -> list[ChallengeCase]:
        """Proposals for a split's rows. DatasetNotReadyError, SplitEmptyError."""
        tenant, _, _ = DATASET_REVISION.parse(dataset_revision, field="dataset_revision")
        if split not in SPLITS:
            raise InvalidArgumentError.of_field("split", f"{split!r} is not one of {', '.join(SPLITS)}")
        if not 1 <= per_kind_count <= MAX_PER_KIND:
            raise InvalidArgumentError.of_field("per_kind_count", f"{per_kind_count} is not in 1 to {MAX_PER_KIND}")
        dataset = await self._datasets.dataset_revision(tenant, dataset_revision)
        return await asyncio.to_thread(self._generate, dataset.rows_sha256(split), split, per_kind_count, seed)

    def _generate(self, sha256: str, split: str, per_kind_count: int, seed: int) -> list[ChallengeCase]:
        rows = parse_rows(self._blobs.read_bytes(sha256), split=split)
        cases = generate_cases(rows, per_kind_count=per_kind_count, seed=seed)
        while len(write_cases(cases).data) > MAX_PROPOSAL_BYTES:  # rows of many kilobytes: fewer of each kind
            per_kind_count //= 2
            cases = generate_cases(rows, per_kind_count=per_kind_count, seed=seed)
        return cases

    async def create(self, parent: str, cases: Sequence[ChallengeCase], *, reviewer: str) -> ChallengeSet:
        """Keeps reviewed cases under the name of their digest. ChallengeCaseError."""
        (tenant,) = TENANT.parse(parent, field="parent")
        check_cases(cases)
        file = write_cases(cases)
        await asyncio.to_thread(self._blobs.put_bytes, file.data)
        name = CHALLENGE_SET.format(tenant, f"d{file.sha256[:ID_DIGITS]}")
        return await self._store.add(ChallengeSet(name, file.sha256, file.kind_counts, reviewer, self._now()))

    async def get(self, name: str) -> ChallengeSet:
        """ChallengeSetNotFoundError."""
        CHALLENGE_SET.parse(name)
        return await self._store.get(name)

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[ChallengeSet]:
        """A page of a tenant's sets, by name."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        return await self._store.list(f"{parent}/challengeSets/", page)

    async def cases(self, name: str, page_size: int, page_token: str) -> Page[ChallengeCase]:
        """A page of a set's cases, in their order."""
        page = PageRequest.parse(page_size, page_token, name)
        found = await self.get(name)
        with about(name):
            cases = read_cases(await asyncio.to_thread(self._blobs.read_bytes, found.sha256))
        return page.slice(cases)
