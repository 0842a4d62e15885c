"""What importing the service loads."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_service_and_the_worker_loads_no_torch_and_no_ragas() -> None:
    for module in (
        "luthierd.evaluator.api.evaluation_service",
        "luthierd.evaluator.worker",
        "luthierd.evaluator.__main__",
    ):
        code = (
            f"import sys, {module}; print([m for m in ('torch', 'transformers', 'ragas', 'vllm') if m in sys.modules])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]", module
