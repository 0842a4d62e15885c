"""Following a job of any kind by its resource name until it is final."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from luthier import names
from luthier.cli.progress import Progress
from luthier.cli.session import Session
from luthier.display import arm_name, state_of
from luthier.errors import InvalidNameError
from luthier.resources.resource import finished

if TYPE_CHECKING:
    from luthier.client import AsyncClient

KINDS = ("training_job", "adapter_import", "evaluation", "prompt", "dataset_revision", "base_model")


class JobMethods(NamedTuple):
    """What a noun of the client offers for its jobs."""

    get: Callable[[str], Awaitable[Any]]
    watch: Callable[..., AsyncIterator[Any]]
    cancel: Callable[[str], Awaitable[Any]]


def methods_of(client: AsyncClient, kind: str) -> JobMethods:
    if kind == "dataset_revision":
        datasets = client.datasets
        return JobMethods(datasets.get_revision, datasets.watch_revision, datasets.cancel_revision)
    nouns: dict[str, Any] = {
        "training_job": client.training_jobs,
        "adapter_import": client.adapter_imports,
        "evaluation": client.evaluations,
        "prompt": client.prompts,
    }
    return JobMethods(nouns[kind].get, nouns[kind].watch, nouns[kind].cancel)


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
        methods = methods_of(client, kind)
        async for event in methods.watch(name, on_away=lambda error: progress.note(f"{error.message}; waiting for it")):
            if session.as_json:
                session.emit(event, event=event.WhichOneof("event"), name=name)
            else:
                _show(progress, event)
        job = await methods.get(name)
    session.following = ""
    return finished(job)


async def follow_new(client: AsyncClient, session: Session, created: Any, *, wait: bool) -> Any:
    """The finished message of a job that was just created, or without `wait` the job as it is."""
    session.following = created.name
    if not wait:
        return created
    session.note(created.name)
    if session.as_json:
        session.emit(created, event="created")
    return await follow(client, session, created.name)


def show_new(session: Session, job: Any, *, waited: bool, show: Callable[[], object]) -> None:
    """Prints a job from `follow_new`: as JSON, or its name, followed by `show()` if it was waited for."""
    if session.as_json:
        session.emit(job, **({"event": "result"} if waited else {}))
        return
    click.echo(job.name)
    if waited:
        show()
    else:
        session.note(f"watch it: luthier jobs watch {job.name}")


def kind_of(name: str) -> str:
    """The kind of a job; `InvalidNameError` if the name is not a job's."""
    kind = names.parse(name).kind
    if kind not in KINDS:
        raise InvalidNameError(
            f"'{name}' names a {kind.replace('_', ' ')}, which is not a job; jobs are training jobs, evaluations, "
            "prompt searches, adapter imports and dataset revisions: see `luthier jobs list`",
            metadata={"name": name, "kind": kind},
        )
    return kind


def _show(progress: Progress, event: Any) -> None:
    what = event.WhichOneof("event")
    if what == "message" and event.DESCRIPTOR.name == "AdapterImportEvent":
        progress.update(event.message)
    elif what == "message":
        progress.note(event.message)
    elif what == "state" and (state := state_of(event).lower()) in {"queued", "cancelling"}:
        progress.update(state)
    elif what == "progress":
        _show_progress(progress, event.DESCRIPTOR.name, event.progress)


def _show_progress(progress: Progress, event_type: str, found: Any) -> None:
    if event_type == "TrainingJobEvent":
        progress.update("training", done=found.step, total=found.total_steps, detail=training_detail(found))
    elif event_type == "EvaluationEvent":
        phase = f"{found.phase} {arm_name(found.arm)}" if found.arm else found.phase
        progress.update(phase, done=found.done_count, total=found.total_count)
    elif event_type == "PromptEvent":
        progress.update("searching", done=found.done_count, total=found.total_count)
    else:
        progress.update(found.stage.replace("_", " "), done=found.done_row_count, total=found.total_row_count)


def training_detail(found: Any) -> str:
    """Loss, validation loss, speed and remaining time of a training step."""
    parts = [f"loss {found.loss:.3f}"]
    if found.HasField("validation_loss"):
        parts.append(f"validation {found.validation_loss:.3f}")
    parts.append(f"{found.tokens_per_second:.0f} tok/s")
    left_s = found.remaining_duration.seconds
    parts.append(f"{left_s // 60}:{left_s % 60:02d} left")
    return "  ".join(parts)
