"""What the server process loads."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "safetensors")
CODE = f"""
import sys, luthierd.trainer.build
from luthierd.trainer.domain.training import TrainingConfig
from luthierd.trainer.recipes.recipe import with_method_defaults
with_method_defaults(TrainingConfig())
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_the_server_checks_settings_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
