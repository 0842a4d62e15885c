"""What the configuration of an evaluation may say; checked once, when it is created."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthierd.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from luthierd.evaluator.dataset.answer_schema import AnswerSchema, SchemaProblem
from luthierd.evaluator.domain.arm import ADAPTER_FIELDS, Arm
from luthierd.evaluator.domain.evaluation import SPLITS, EvaluationConfig, adapter_of
from luthierd.evaluator.domain.suites import suite_violations
from luthierd.evaluator.models.arms import target_violations
from luthierd.evaluator.run.sequential_rules import holdout_violations
from luthierd.evaluator.scorers.registry import metrics_of, scorer_type, spec_of
from luthierd.evaluator.suites.run import spec_violations
from luthierd.names import BASE_MODEL, DEPLOYMENT, NamePattern

# Bounds of the contract's numbers: (lowest, highest).
BOUNDS: dict[str, tuple[float, float]] = {
    "row_limit": (0, 1_000_000),
    "shot_count": (0, 16),
    "max_answer_tokens": (1, 8192),
    "concurrency": (1, 256),
    "machine_price_per_hour": (0, 1_000_000),
    "resample_count": (100, 100_000),
    "passage_characters": (100, 8_000),
}
CRITERION_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_CRITERIA, MAX_DESCRIPTION_CHARACTERS = 16, 2000
JUDGE_TOKENS, SCALES, REPEATS, MAX_TEMPERATURE = (16, 8192), (2, 10), (2, 8), 2.0


class JudgeIsGeneratorError(FailedPreconditionError):
    """The judge is the adapter under test: it would grade its own answers."""

    reason = "JUDGE_IS_GENERATOR"

    def __init__(self, judge: str, adapter: str) -> None:
        super().__init__(
            f"the judge {judge} answers with {adapter}, which is under test; choose the base model, an endpoint, or a "
            "deployment of another adapter",
            metadata={"judge": judge, "adapter": adapter},
        )


def check_config(config: EvaluationConfig) -> None:
    """InvalidArgumentError naming every field of the configuration that is out of bounds."""
    violations = []
    for name, (low, high) in BOUNDS.items():
        value = getattr(config, name)
        if not low <= value <= high:
            violations.append(FieldViolation(f"evaluation.config.{name}", f"{value:g} is not in {low:g} to {high:g}"))
    if config.split not in SPLITS:
        text = f"{config.split!r} is not one of {', '.join(SPLITS)}"
        violations.append(FieldViolation("evaluation.config.split", text))
    if len(set(config.arms)) != len(config.arms):
        violations.append(FieldViolation("evaluation.config.arms", "an arm is named twice"))
    violations.extend(holdout_violations(config))
    violations.extend(metric_violations(config))
    violations += target_violations(config)
    violations += suite_violations(config.suites, field="evaluation.config")
    violations += spec_violations(config.suites.specs, field="evaluation.config.suites")
    if violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgumentError(message, metadata={"field": violations[0].field}, violations=violations)


def metric_violations(config: EvaluationConfig) -> Iterator[FieldViolation]:
    """Everything that is wrong, field by field."""
    where = "evaluation.config"
    yield from _metrics(config, where)
    yield from _rubric(config, where)
    yield from _judge(config, where)
    if config.json_schema:
        try:
            AnswerSchema(config.json_schema)
        except SchemaProblem as problem:
            yield FieldViolation(f"{where}.json_schema", str(problem))
    if not REPEATS[0] <= config.repeat_count <= REPEATS[1]:
        yield FieldViolation(f"{where}.repeat_count", f"{config.repeat_count} is not in {REPEATS[0]} to {REPEATS[1]}")
    if not 0 < config.repeat_temperature <= MAX_TEMPERATURE:
        text = f"{config.repeat_temperature:g} is not above 0 and up to {MAX_TEMPERATURE:g}"
        yield FieldViolation(f"{where}.repeat_temperature", text)


def generators_of(config: EvaluationConfig, adapter_revision: str) -> set[str]:
    """The adapters whose answers are under test."""
    tested = (adapter_revision, *(getattr(config, field) for field in ADAPTER_FIELDS))
    return {adapter_of(revision) for revision in tested if revision}


def refuse_own_endpoint(config: EvaluationConfig) -> None:
    """JudgeIsGeneratorError if the endpoint under test would grade itself."""
    arm, judge = config.endpoint, config.judge
    if arm is not None and judge.endpoint == arm.endpoint and judge.model == arm.model:
        raise JudgeIsGeneratorError(judge.endpoint, f"endpoint {arm.endpoint}")


def _metrics(config: EvaluationConfig, where: str) -> Iterator[FieldViolation]:
    if len(set(config.metrics)) != len(config.metrics):
        yield FieldViolation(f"{where}.metrics", "a metric is named twice")
    if config.task.is_chosen and Arm.ENDPOINT in config.arms:
        yield FieldViolation(f"{where}.arms", "an endpoint gives no log-probabilities to choose by; leave it out")
    for metric in config.metrics:
        needs = spec_of(metric).needs
        if needs.suite:
            yield FieldViolation(f"{where}.metrics", f"{metric} comes with its suite; configure that instead")
        if needs.base and Arm.BASE not in config.arms:
            yield FieldViolation(f"{where}.metrics", f"{metric} compares with the base arm; add it to `arms`")
        if config.sequential is not None and needs.asks:
            yield FieldViolation(
                f"{where}.metrics", f"{metric} asks additional questions; a sequential evaluation stops early"
            )
        if config.task.is_chosen and needs.asks:
            yield FieldViolation(f"{where}.metrics", f"{metric} asks for generated answers; a {config.task} has none")
    for metric in metrics_of(config):
        if scorer := scorer_type(metric):
            yield from scorer.violations(config)


def _rubric(config: EvaluationConfig, where: str) -> Iterator[FieldViolation]:
    if len(config.rubric) > MAX_CRITERIA:
        yield FieldViolation(f"{where}.rubric", f"{len(config.rubric)} criteria are more than {MAX_CRITERIA}")
    if len({one.name for one in config.rubric}) != len(config.rubric):
        yield FieldViolation(f"{where}.rubric", "two criteria have one name")
    for index, one in enumerate(config.rubric):
        if not CRITERION_NAME.fullmatch(one.name):
            yield FieldViolation(f"{where}.rubric[{index}].name", f"a name is {CRITERION_NAME.pattern}")
        if not one.description.strip() or len(one.description) > MAX_DESCRIPTION_CHARACTERS:
            text = f"1 to {MAX_DESCRIPTION_CHARACTERS} characters are needed"
            yield FieldViolation(f"{where}.rubric[{index}].description", text)
        if not SCALES[0] <= one.scale <= SCALES[1]:
            yield FieldViolation(f"{where}.rubric[{index}].scale", f"{one.scale} is not in {SCALES[0]} to {SCALES[1]}")


def _judge(config: EvaluationConfig, where: str) -> Iterator[FieldViolation]:
    judge = config.judge
    if judge.target and not (_is_name(BASE_MODEL, judge.target) or _is_name(DEPLOYMENT, judge.target)):
        yield FieldViolation(f"{where}.judge.target", "name a base model or a deployment")
    if judge.model and not judge.endpoint:
        yield FieldViolation(f"{where}.judge.model", "only an endpoint has several models; leave it out")
    if not JUDGE_TOKENS[0] <= judge.max_tokens <= JUDGE_TOKENS[1]:
        text = f"{judge.max_tokens} is not in {JUDGE_TOKENS[0]} to {JUDGE_TOKENS[1]}"
        yield FieldViolation(f"{where}.judge.max_tokens", text)


def _is_name(pattern: NamePattern, name: str) -> bool:
    try:
        pattern.parse(name)
    except InvalidArgumentError:
        return False
    return True
