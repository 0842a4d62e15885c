"""Suites between the contract and the domain."""

from __future__ import annotations

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.inference.v1 import inference_service_pb2

from luthierd.evaluator.domain.suites import CounterfactualConfig, LmEvalConfig, SuiteConfig, SuiteSpec
from luthierd.evaluator.models.generate import Reply
from luthierd.rpc.wire import from_proto, to_proto

DEFAULT_RETENTION_ITEM_COUNT = 40


def suites_from_proto(message: pb.EvaluationConfig) -> SuiteConfig:
    """Bounds are checked by `config_rules.check_config`."""
    retention, item_count, counterfactual, lm_eval = message.retention_suite, None, None, None
    if message.HasField("retention_suite"):
        item_count = retention.item_count if retention.HasField("item_count") else DEFAULT_RETENTION_ITEM_COUNT
    if message.HasField("counterfactual_suite"):
        pairs = tuple((pair.first, pair.second) for pair in message.counterfactual_suite.term_pairs)
        counterfactual = from_proto(CounterfactualConfig, message.counterfactual_suite, term_pairs=pairs)
    if message.HasField("lm_eval_suite"):
        lm_eval = from_proto(LmEvalConfig, message.lm_eval_suite)
    specs = tuple(SuiteSpec(spec.name, dict(spec.settings)) for spec in message.suites)
    return SuiteConfig(message.challenge_set, item_count, counterfactual, lm_eval, specs)


def add_suites(message: pb.EvaluationConfig, config: SuiteConfig) -> None:
    """Fills in what `suites_from_proto` reads."""
    message.challenge_set = config.challenge_set
    if config.retention_item_count is not None:
        message.retention_suite.item_count = config.retention_item_count
    if config.lm_eval is not None:
        message.lm_eval_suite.CopyFrom(to_proto(pb.LmEvalSuite, config.lm_eval))
    if config.counterfactual is not None:
        pairs = [pb.TermPair(first=first, second=second) for first, second in config.counterfactual.term_pairs]
        suite = to_proto(pb.CounterfactualSuite, config.counterfactual, term_pairs=pairs)
        message.counterfactual_suite.CopyFrom(suite)
    message.suites.extend(to_proto(pb.SuiteSpec, spec) for spec in config.specs)


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
