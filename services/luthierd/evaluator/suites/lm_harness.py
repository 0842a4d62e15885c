"""Tasks of lm-evaluation-harness: lm-eval reads them, writes their prompts and scores the answers; we generate them.

Not lm-eval's API models: there one request that fails ends the run, and nothing is kept of it (docs/decisions/0017).
"""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from luthierd.errors import FailedPreconditionError, NotFoundError
from luthierd.evaluator.domain.suites import LmEvalConfig

SHIPPED = pathlib.Path(__file__).parent / "lm_tasks"
FEWSHOT_SEED = 1234
"""lm-eval's default: the examples that its command line shows, and after a crash the same ones again."""


class LmTaskNotFoundError(NotFoundError):
    """No YAML file of the known folders has a task of this name."""

    reason = "LM_TASK_NOT_FOUND"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"there is no lm-eval task {name!r} on this server; it has {', '.join(known)}", metadata={"task": name}
        )


class LmTaskUnusableError(FailedPreconditionError):
    """A task that needs a network, or whose score is not between 0 and 1."""

    reason = "LM_TASK_UNUSABLE"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"the lm-eval task {name} cannot be used: {problem}"[:1000], metadata={"task": name})


class LmRequest(NamedTuple):
    """A query for a document. `scored` is the text whose likelihood after `shown` is wanted; None: a text is to
    be generated, which then ends before the first of `until`.
    """

    shown: str
    scored: str | None
    until: tuple[str, ...] = ()


@dataclass(frozen=True)
class LmItem:
    """One document of a task, with its queries."""

    item_id: str
    requests: tuple[LmRequest, ...]


class LmTask:
    """A task's first documents. `metric` is the first of its `metric_list`."""

    def __init__(self, name: str, task: Any, item_count: int) -> None:
        """`task`: lm-eval's, of the type multiple_choice or generate_until. LmTaskUnusableError."""
        if task.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
            raise LmTaskUnusableError(name, f"its output_type is {task.OUTPUT_TYPE}; multiple_choice or generate_until")
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(limit=item_count, rank=0, world_size=1)
        by_doc = itertools.groupby(task.instances, key=lambda instance: instance.doc_id)
        self.name, self._task = name, task
        self.metric, self.version = str(task.config.metric_list[0]["metric"]), str(task.VERSION)
        self._instances = {f"{name}/{doc_id}": list(given) for doc_id, given in by_doc}

    @property
    def items(self) -> list[LmItem]:
        """The documents in order."""
        return [LmItem(key, tuple(map(_request, given))) for key, given in self._instances.items()]

    def scores(self, said: Mapping[str, Sequence[str | None]]) -> list[float | None]:
        """A score for each item: `said` has an answer to each of its requests, a text or a log-probability in nats;
        with one None among them the item failed. Not for two threads at once. LmTaskUnusableError.
        """
        for key, instances in self._instances.items():
            for instance, answer in zip(instances, said[key], strict=True):
                instance.filtered_resps = {}
                instance.resps = [_response(_request(instance), answer)]
        self._task.apply_filters()
        return [
            None if any(answer is None for answer in said[key]) else self._score(instances)
            for key, instances in self._instances.items()
        ]

    def _score(self, instances: Sequence[Any]) -> float:
        # A task with several filters reports each; the first one counts here.
        chosen = next(iter(instances[0].filtered_resps))
        found = self._task.process_results(instances[0].doc, [one.filtered_resps[chosen] for one in instances])
        try:
            value = float(found[self.metric])
        except (KeyError, TypeError, ValueError) as error:
            raise LmTaskUnusableError(self.name, f"its metric {self.metric} gives no number for an item") from error
        if not 0 <= value <= 1:
            raise LmTaskUnusableError(self.name, f"its metric {self.metric} gives {value:g}, not 0 to 1, for an item")
        return value


def load_tasks(config: LmEvalConfig, folders: Sequence[pathlib.Path]) -> list[LmTask]:
    """The tasks that are named, from the YAML files below `folders`. Imports lm-eval: seconds. LmTaskNotFoundError,
    LmTaskUnusableError.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)
    known = sorted(manager.all_tasks)
    for name in config.tasks:
        if name not in known:
            raise LmTaskNotFoundError(name, known)
    return [_load(manager, name, config.item_count) for name in config.tasks]


def loader(folder: pathlib.Path | None) -> functools.partial[list[LmTask]]:
    """`load_tasks` for the shipped tasks and those of the operator's folder."""
    return functools.partial(load_tasks, folders=[SHIPPED, *([folder] if folder else [])])


def _load(manager: Any, name: str, item_count: int) -> LmTask:
    try:
        task = manager.load([name])["tasks"][name]
    except Exception as error:  # a border: the code of a task and of `datasets` can raise anything
        raise LmTaskUnusableError(name, f"{type(error).__name__}: {error}") from error
    return LmTask(name, task, item_count)


def _request(instance: Any) -> LmRequest:
    shown, rest = instance.args[:2]
    if instance.request_type == "loglikelihood":
        return LmRequest(shown, rest)
    until = rest.get("until") or ()
    return LmRequest(shown, None, (until,) if isinstance(until, str) else tuple(until))


def _response(request: LmRequest, answer: str | None) -> object:
    """As lm-eval's models answer. Whether a text is the likeliest of all is not known, and no score needs it."""
    if request.scored is not None:
        return (float(answer) if answer is not None else float("-inf"), False)
    text = answer or ""
    return text[: min((at for stop in request.until if stop and (at := text.find(stop)) >= 0), default=len(text))]
