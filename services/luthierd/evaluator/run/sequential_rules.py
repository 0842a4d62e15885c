"""What a configuration may say of a holdout: its final slice, a purpose, and a sequential evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from luthierd.errors import FieldViolation
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import LABEL_F1_MACRO
from luthierd.evaluator.domain.sequential import SequentialConfig, SequentialTarget
from luthierd.evaluator.scorers.registry import spec_of

MAX_PURPOSE_LENGTH = 200
ROUND_SIZES = (10, 100_000)
MAX_TARGETS = 100
WHERE = "evaluation.config"


def holdout_violations(config: EvaluationConfig) -> list[FieldViolation]:
    """Every field that is wrong."""
    found = []
    if len(config.purpose) > MAX_PURPOSE_LENGTH:
        text = f"{len(config.purpose)} characters are more than {MAX_PURPOSE_LENGTH}"
        found.append(FieldViolation(f"{WHERE}.purpose", text))
    if config.final and config.split != "holdout":
        found.append(FieldViolation(f"{WHERE}.final", f"the split {config.split} has no final slice"))
    if config.sequential is not None:
        found.extend(_sequential(config, config.sequential))
    return found


def _sequential(config: EvaluationConfig, sequential: SequentialConfig) -> Iterator[FieldViolation]:
    low, high = ROUND_SIZES
    where = f"{WHERE}.sequential"
    if not low <= sequential.round_size <= high:
        yield FieldViolation(f"{where}.round_size", f"{sequential.round_size} is not in {low} to {high}")
    if len(config.arms) < 2:
        yield FieldViolation(where, "one arm alone has no difference to decide; name two arms or more")
    if len(sequential.targets) > MAX_TARGETS:
        yield FieldViolation(f"{where}.targets", f"{len(sequential.targets)} are more than {MAX_TARGETS}")
    if probing := [metric for metric in config.metrics if spec_of(metric).needs.asks]:
        yield FieldViolation(f"{WHERE}.metrics", f"{', '.join(probing)} query every row again; no arm could end early")
    for index, target in enumerate(sequential.targets):
        yield from _target(config, target, f"{where}.targets[{index}]")
    named = {arm for target in sequential.targets for arm in (target.arm, target.reference)}
    if named and (idle := [arm for arm in config.arms if arm not in named]):
        yield FieldViolation(f"{where}.targets", f"no target needs {', '.join(idle)}; leave them out of `arms`")


def _target(config: EvaluationConfig, target: SequentialTarget, where: str) -> Iterator[FieldViolation]:
    if target.metric == LABEL_F1_MACRO:
        yield FieldViolation(f"{where}.metric", "label_f1_macro is not a mean over rows; use label_accuracy")
    if target.arm is target.reference:
        yield FieldViolation(f"{where}.reference", f"{target.arm} cannot be compared with itself")
    for name, arm in (("arm", target.arm), ("reference", target.reference)):
        if arm not in config.arms:
            yield FieldViolation(f"{where}.{name}", f"{arm} is not among the arms of this evaluation")
    if not -1 <= target.at_least <= 1:
        yield FieldViolation(f"{where}.at_least", f"{target.at_least:g} is not in -1 to 1")
