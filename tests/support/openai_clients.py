"""Real OpenAI clients, each a script in tests/clients that knows nothing of Luthier, and what must be true of them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from support.inference_server import BASE, InferenceServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests/clients"
OTHERS = ROOT / ".build/clients/bin"
"""Programs of the environment that `make clients` makes."""
PYTHON, OTHER_PYTHON, NODE = sys.executable, str(OTHERS / "python"), str(OTHERS / "node")
CLIENTS = {
    "openai 3 (Python)": (PYTHON, "python/openai_client.py"),
    "openai 2 (Python)": (OTHER_PYTHON, "python/openai_client.py"),
    "openai (Node)": (NODE, "node/openai_client.mjs"),
    "langchain-openai": (PYTHON, "python/langchain_client.py"),
    "instructor": (PYTHON, "python/instructor_client.py"),
    "litellm": (OTHER_PYTHON, "python/litellm_client.py"),
    "pydantic-ai": (OTHER_PYTHON, "python/pydantic_ai_client.py"),
    "llama-index (openai-like)": (OTHER_PYTHON, "python/llama_index_client.py"),
    "ai (Vercel), @ai-sdk/openai-compatible": (NODE, "node/ai_client.mjs"),
    "promptfoo": (NODE, "node/promptfoo_client.mjs"),
    "vllm bench serve": (PYTHON, "python/vllm_client.py"),
}
QUIET = {
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""No client calls home."""
LIMIT_S = 300.0
CHECKS: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    "models": lambda results: any(str(name).endswith(BASE) for name in results["models"]),
    "chat": lambda results: bool(results["chat"].strip()),
    "stream": lambda results: len(results["stream"]) > 1 and "".join(results["stream"]) == results["chat"],
    "tool": lambda results: results["tool"]["name"] == "book" and is_booking(results["tool"]["arguments"]),
    "structured": lambda results: is_booking(results["structured"]),
    "errors": lambda results: results["errors"] == [401, 404, 400],
    "abort": lambda _: True,
}
"""By what a script reports; see `checks.py` there."""


def is_booking(value: Any) -> bool:
    """Whether it follows the schema that all clients use."""
    return value.keys() == {"city", "nights"} and value["city"] in ("Oslo", "Rome") and value["nights"] in (1, 2, 3)


def run_client(client: str, server: InferenceServer, *, tokenizer: pathlib.Path | None = None) -> dict[str, Any]:
    """What the client got, by check. AssertionError for a check that failed. `tokenizer`: for vLLM's benchmark."""
    program, script = CLIENTS[client]
    environment = os.environ | QUIET | {"LUTHIER_TOKENIZER": str(tokenizer), "LUTHIER_MODEL": BASE}
    environment |= {"LUTHIER_URL": f"http://127.0.0.1:{server.http_port}/v1", "LUTHIER_KEY": server.token("acme")}
    ran = subprocess.run(
        [program, SCRIPTS / script], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    failures = [f"{name}: {one['failure']}" for name, one in found.items() if "failure" in one]
    assert not failures, "\n".join(failures)
    results = {name: one["result"] for name, one in found.items()}
    wrong = [name for name in results if not CHECKS[name](results)]
    assert not wrong, f"{wrong} of {results}"
    return results
