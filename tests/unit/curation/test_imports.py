"""What the server process loads."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "spacy", "presidio_analyzer", "rensa")


def test_the_server_loads_no_model_and_no_scanner() -> None:
    code = f"import sys, luthierd.curation.__main__; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
