"""Suites between the contract and the domain, both ways."""

from __future__ import annotations

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.inference.v1 import inference_service_pb2

from luthierd.evaluator.domain.scores import SuiteFigure, SuiteResult
from luthierd.evaluator.domain.suites import CounterfactualConfig, LmEvalConfig, SuiteConfig
from luthierd.evaluator.models.generate import Reply

DEFAULT_RETENTION_ITEM_COUNT = 40


def suites_from_proto(message: pb.EvaluationConfig) -> SuiteConfig:
    """What is asked beyond the holdout; bounds are checked by `evaluations.check_config`."""
    general, counterfactual = message.retention_suite, None
    if message.HasField("counterfactual_suite"):
        given, default = message.counterfactual_suite, CounterfactualConfig()
        counterfactual = CounterfactualConfig(
            row_limit=given.row_limit if given.HasField("row_limit") else default.row_limit,
            term_lists=tuple(given.term_lists) or default.term_lists,
            term_pairs=tuple((pair.first, pair.second) for pair in given.term_pairs),
        )
    item_count = None
    if message.HasField("retention_suite"):
        item_count = general.item_count if general.HasField("item_count") else DEFAULT_RETENTION_ITEM_COUNT
    lm_eval = None
    if message.HasField("lm_eval_suite"):
        asked, usual = message.lm_eval_suite, LmEvalConfig()
        lm_eval = LmEvalConfig(
            tuple(asked.tasks) or usual.tasks, asked.item_count if asked.HasField("item_count") else usual.item_count
        )
    return SuiteConfig(message.challenge_set, item_count, counterfactual, lm_eval)


def add_suites(message: pb.EvaluationConfig, config: SuiteConfig) -> None:
    """Fills in what `suites_from_proto` reads."""
    message.challenge_set = config.challenge_set
    if config.retention_item_count is not None:
        message.retention_suite.item_count = config.retention_item_count
    if config.lm_eval is not None:
        message.lm_eval_suite.tasks.extend(config.lm_eval.tasks)
        message.lm_eval_suite.item_count = config.lm_eval.item_count
    if config.counterfactual is not None:
        target = message.counterfactual_suite
        target.row_limit = config.counterfactual.row_limit
        target.term_lists.extend(config.counterfactual.term_lists)
        target.term_pairs.extend(pb.TermPair(first=a, second=b) for a, b in config.counterfactual.term_pairs)


def suite_to_proto(found: SuiteResult) -> pb.SuiteResult:
    """What a suite left."""
    return pb.SuiteResult(
        suite=found.suite,
        sha256=found.sha256,
        item_count=found.item_count,
        left_out_count=found.left_out_count,
        figures=[_figure_to_proto(figure) for figure in found.figures],
    )


def scored_text_from_proto(message: inference_service_pb2.ScoreResponse) -> Reply:
    """A score of the inference service as a reply whose text is the log-probability in nats."""
    return Reply(
        text=repr(message.total_logprob),
        ttft_s=0.0,
        prompt_tokens=message.prompt_token_count,
        completion_tokens=len(message.tokens),
        finish_reason="scored",
        loaded_adapter=message.origin.loaded_adapter,
    )


def _figure_to_proto(found: SuiteFigure) -> pb.SuiteFigure:
    low, high = (found.interval.low, found.interval.high) if found.interval else (float("nan"), float("nan"))
    return pb.SuiteFigure(
        arm=pb.Arm.Value(f"ARM_{found.arm.name}"),
        quantity=found.quantity,
        value=found.value,
        interval_low=low,
        interval_high=high,
        item_count=found.item_count,
    )
