"""Time and memory to aggregate a million scored rows: means, intervals and paired differences.

Two arms of 500,000 rows in 50,000 groups, one metric, the default number of resamples, as in `scoring.py`. Runs in a
separate process to measure its peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import results

ROWS, GROUPS, N_RESAMPLES = 500_000, 50_000, 2000
LIMIT_S, LIMIT_GIB = 60.0, 2.0


def measure() -> Iterator[dict[str, object]]:
    """Measured value and limit in seconds, then in GiB."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.aggregation"], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, peak_gib = json.loads(done.stdout.splitlines()[-1])
    yield results.ratio("aggregation", "seconds for 1,000,000 scored rows / 60", [(seconds, LIMIT_S)], target="< 1")
    yield results.ratio("aggregation", "peak GiB for 1,000,000 scored rows / 2", [(peak_gib, LIMIT_GIB)], target="< 1")


def _aggregate() -> None:
    import resource
    import time

    import numpy as np
    from luthierd.evaluator.domain.scores import Score
    from luthierd.statistics import clustered, compare

    rng = np.random.default_rng(1)  # the resampling uses seed 0
    groups = [f"g{number % GROUPS}" for number in range(ROWS)]
    scored = [[Score(f"r{number}", float(value)) for number, value in enumerate(rng.random(ROWS))] for _ in range(2)]
    start = time.perf_counter()
    own, other = (clustered.mean_of([score.value or 0.0 for score in scores], groups) for scores in scored)
    for data in (own, other):
        compare.mean_interval(data, seed=0, n_resamples=N_RESAMPLES)
    compare.difference_interval(own, other, seed=0, n_resamples=N_RESAMPLES)
    clustered.minimum_detectable_effect(clustered.difference_of(own, other))
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))


if __name__ == "__main__":
    _aggregate()
