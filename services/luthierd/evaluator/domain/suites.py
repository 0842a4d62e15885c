"""The suites of an evaluation beyond its holdout; none by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from luthierd.errors import FieldViolation

TERM_LISTS = ("names", "pronouns", "groups")
LM_TASKS = ("luthier_arithmetic", "luthier_cloze", "luthier_instructions")
MAX_LM_TASKS, MAX_LM_TASK_CHARACTERS = 20, 100


@dataclass(frozen=True)
class CounterfactualConfig:
    """Rows to ask twice, and the lists whose terms are exchanged. Bounds: `CounterfactualSuite` of the contract."""

    row_limit: int = 50
    term_lists: tuple[str, ...] = TERM_LISTS
    term_pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LmEvalConfig:
    """Tasks of lm-evaluation-harness, and how many documents of each. Bounds: `LmEvalSuite` of the contract."""

    tasks: tuple[str, ...] = LM_TASKS
    item_count: int = 40


@dataclass(frozen=True)
class SuiteSpec:
    """A suite by name, with settings that it reads itself."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteConfig:
    """`challenge_set`: a set's name, empty for none. `retention_item_count`: items of each part, None for no suite.
    `specs`: other suites.
    """

    challenge_set: str = ""
    retention_item_count: int | None = None
    counterfactual: CounterfactualConfig | None = None
    lm_eval: LmEvalConfig | None = None
    specs: tuple[SuiteSpec, ...] = ()

    def settings_of(self, name: str) -> Mapping[str, str] | None:
        """The settings of a suite among `specs`; None if it is not there."""
        return next((spec.settings for spec in self.specs if spec.name == name), None)


def suite_violations(config: SuiteConfig, *, field: str) -> list[FieldViolation]:
    """What is out of bounds, named below `field`."""
    found = []
    if config.retention_item_count is not None and not 5 <= config.retention_item_count <= 1000:
        text = f"{config.retention_item_count} is not in 5 to 1,000"
        found.append(FieldViolation(f"{field}.retention_suite.item_count", text))
    if config.lm_eval is not None:
        found += _lm_eval_violations(config.lm_eval, field=f"{field}.lm_eval_suite")
    if config.counterfactual is None:
        return found
    own, given = f"{field}.counterfactual_suite", config.counterfactual
    if not 5 <= given.row_limit <= 10_000:
        found.append(FieldViolation(f"{own}.row_limit", f"{given.row_limit} is not in 5 to 10,000"))
    for name in given.term_lists:
        if name not in TERM_LISTS:
            found.append(FieldViolation(f"{own}.term_lists", f"{name!r} is not one of {', '.join(TERM_LISTS)}"))
    if len(given.term_pairs) > 1000:
        found.append(FieldViolation(f"{own}.term_pairs", f"{len(given.term_pairs):,} pairs are more than 1,000"))
    for index, pair in enumerate(given.term_pairs):
        if not all(term.strip() and len(term) <= 100 for term in pair) or pair[0] == pair[1]:
            text = "a pair has two different terms of 1 to 100 characters"
            found.append(FieldViolation(f"{own}.term_pairs[{index}]", text))
    return found


def _lm_eval_violations(config: LmEvalConfig, *, field: str) -> list[FieldViolation]:
    found = []
    if not 5 <= config.item_count <= 1000:
        found.append(FieldViolation(f"{field}.item_count", f"{config.item_count:,} is not in 5 to 1,000"))
    if len(config.tasks) > MAX_LM_TASKS:
        found.append(FieldViolation(f"{field}.tasks", f"{len(config.tasks):,} tasks are more than {MAX_LM_TASKS}"))
    if len(set(config.tasks)) < len(config.tasks):
        found.append(FieldViolation(f"{field}.tasks", "a task is named twice"))
    for index, name in enumerate(config.tasks):
        if not 0 < len(name) <= MAX_LM_TASK_CHARACTERS:
            text = f"a name has 1 to {MAX_LM_TASK_CHARACTERS} characters"
            found.append(FieldViolation(f"{field}.tasks[{index}]", text))
    return found
