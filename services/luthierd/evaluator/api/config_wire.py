"""The configuration of an evaluation between the contract and the domain, both ways."""

from __future__ import annotations

from typing import Any

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import metrics_pb2

from luthierd.evaluator.api import suite_wire
from luthierd.evaluator.api.holdout_wire import sequential_from_proto
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import JudgeChoice, TaskKind
from luthierd.rpc.wire import from_proto, to_proto

PATH = "evaluation.config"


def config_from_proto(message: pb.EvaluationConfig) -> EvaluationConfig:
    """The configuration with every default filled in; bounds are checked by `evaluations.check_config`."""
    given: dict[str, Any] = {"suites": suite_wire.suites_from_proto(message)}
    if message.metrics:
        given["metrics"] = tuple(
            metric_from_name(name, field=f"{PATH}.metrics[{index}]") for index, name in enumerate(message.metrics)
        )
    if message.HasField("sequential"):
        given["sequential"] = sequential_from_proto(message.sequential)
    return from_proto(EvaluationConfig, message, path=PATH, **given)


def config_to_proto(config: EvaluationConfig) -> pb.EvaluationConfig:
    """Every field set; `judge` only where one was chosen."""
    task = None if config.task is TaskKind.AUTO else config.task
    judge = _judge_to_proto(config.judge) if config.judge.name else None
    message = to_proto(pb.EvaluationConfig, config, judge=judge, task=task, suites=None)
    suite_wire.add_suites(message, config.suites)
    return message


def _judge_to_proto(judge: JudgeChoice) -> metrics_pb2.Judge:
    who = {"endpoint": judge.endpoint} if judge.endpoint else {"target": judge.target}
    return metrics_pb2.Judge(model=judge.model, max_tokens=judge.max_tokens, **who)
