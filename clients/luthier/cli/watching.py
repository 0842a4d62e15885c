"""Following a job of any kind by its resource name until it is final."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from luthier import names
from luthier.cli.progress import Progress
from luthier.display import arm_name, to_document
from luthier.errors import InvalidNameError, UnavailableError
from luthier.resources.resource import finished

if TYPE_CHECKING:
    from luthier.cli.session import Session
    from luthier.client import AsyncClient

KINDS = ("training_job", "evaluation", "prompt", "dataset_revision", "base_model")


async def follow(client: AsyncClient, session: Session, name: str) -> Any:
    """Shows a job's progress until it is final and returns its message. Raises `JobFailedError`, `JobCancelledError`.

    With --json every event is a line; the caller prints the result.
    """
    kind = kind_of(name)
    session.following = name
    with Progress(session, f"{names.parse(name).id}: waiting") as progress:
        if kind == "base_model":  # an import has no events
            progress.update("importing")
            return await client.base_models.wait(name)
        async for event in _events(client, kind, name, lambda error: progress.note(f"{error.message}; waiting for it")):
            if session.as_json:
                session.emit({"event": event.WhichOneof("event"), "name": name} | to_document(event))
            else:
                _show(progress, kind, event)
        job = await get(client, name)
    session.following = ""
    return finished(job)


def kind_of(name: str) -> str:
    """The kind of a job; `InvalidNameError` if it is nothing to watch."""
    kind = names.parse(name).kind
    if kind not in KINDS:
        raise InvalidNameError(
            f"'{name}' names a {kind.replace('_', ' ')}, which is no job; jobs are training jobs, evaluations, "
            "searches of prompts and dataset revisions: see `luthier jobs list`",
            metadata={"name": name, "kind": kind},
        )
    return kind


async def get(client: AsyncClient, name: str) -> Any:
    """The job's message."""
    getters = {
        "training_job": client.training_jobs.get,
        "evaluation": client.evaluations.get,
        "prompt": client.prompts.get,
        "dataset_revision": client.datasets.get_revision,
        "base_model": client.base_models.get,
    }
    return await getters[kind_of(name)](name)


def _events(
    client: AsyncClient, kind: str, name: str, on_away: Callable[[UnavailableError], None]
) -> AsyncIterator[Any]:
    if kind == "training_job":
        return client.training_jobs.watch(name, on_away=on_away)
    if kind == "evaluation":
        return client.evaluations.watch(name, on_away=on_away)
    if kind == "prompt":
        return client.prompts.watch(name, on_away=on_away)
    return client.datasets.watch_revision(name, on_away=on_away)


def _show(progress: Progress, kind: str, event: Any) -> None:
    what = event.WhichOneof("event")
    if what == "message":
        progress.note(event.message)
    elif what == "state":
        state = to_document(event)["state"].lower()
        if state in {"queued", "cancelling"}:
            progress.update(state)
    elif what == "progress" and kind == "training_job":
        found = event.progress
        progress.update("training", done=found.step, total=found.total_steps, detail=training_detail(found))
    elif what == "progress" and kind == "evaluation":
        found = event.progress
        arm = arm_name(found.arm) if found.arm else ""
        phase = f"{found.phase} {arm}".strip()
        progress.update(phase, done=found.done_count, total=found.total_count)
    elif what == "progress" and kind == "prompt":
        found = event.progress
        progress.update("searching", done=found.done_count, total=found.total_count)
    elif what == "progress":
        found = event.progress
        progress.update(found.step.replace("_", " "), done=found.done_row_count, total=found.total_row_count)


def training_detail(found: Any) -> str:
    """Loss, validation loss, speed and time left of a training step."""
    parts = [f"loss {found.loss:.3f}"]
    if found.HasField("validation_loss"):
        parts.append(f"validation {found.validation_loss:.3f}")
    parts.append(f"{found.tokens_per_second:.0f} tok/s")
    left_s = found.remaining_duration.seconds
    parts.append(f"{left_s // 60}:{left_s % 60:02d} left")
    return "  ".join(parts)
