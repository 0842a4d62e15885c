"""The parts of feedback and capture, connected."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from luthierd.inference.feedback.capture import ResponseLog, ResponseStore
from luthierd.inference.feedback.capture_files import CaptureFiles, FileStore
from luthierd.inference.feedback.capture_policies import CapturePolicies, PolicyStore
from luthierd.inference.feedback.feedback import Feedbacks, FeedbackStore
from luthierd.storage.blobs import BlobStore


class CaptureStore(ResponseStore, PolicyStore, FileStore, FeedbackStore, Protocol):
    """All that is kept."""


@dataclass(frozen=True)
class Capturing:
    """Answers' log, policies, files and feedback over one store."""

    policies: CapturePolicies
    responses: ResponseLog
    files: CaptureFiles
    feedbacks: Feedbacks

    @property
    def background(self) -> list[Callable[[], Awaitable[None]]]:
        """Tasks that run as long as the server."""
        return [self.responses.run, self.files.run]


def make_capturing(
    store: CaptureStore,
    blobs: BlobStore,
    *,
    response_retention_s: float,
    capture_part_s: float,
    capture_sweep_s: float,
    clock: Callable[[], float] = time.time,
) -> Capturing:
    """The parts. `responses.flush` must be called before the store is closed."""
    policies = CapturePolicies(store, clock=clock)
    responses = ResponseLog(store, policies, clock=clock)
    files = CaptureFiles(
        store,
        blobs,
        policies,
        part_interval_s=capture_part_s,
        sweep_interval_s=capture_sweep_s,
        response_retention_s=response_retention_s,
        clock=clock,
    )
    policies.on_opt_out = files.delete_doomed
    feedbacks = Feedbacks(store, responses, blobs, response_retention_s=response_retention_s, clock=clock)
    return Capturing(policies, responses, files, feedbacks)
