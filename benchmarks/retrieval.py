"""The retrieval index of 60,000 passages: how long it takes to build with the MiniLM embedder, and what a query costs
without its embedding.

    python -m benchmarks.retrieval [--embedded 60000]

The passages are the docstrings of the installed libraries, cut as documents are. `--embedded N` embeds N of them, drawn
evenly, and takes the rest of the vectors at random: exact search costs the same whatever the vectors say, and the build
time is then the measured time a passage times their number, and says so.
"""

from __future__ import annotations

import argparse
import ast
import json
import pathlib
import sysconfig
import time
from collections.abc import Iterator

import numpy as np
from luthierd.evaluator.embedder import MiniLmEmbedder
from luthierd.evaluator.indexes import Bm25Index, DenseIndex, fuse
from luthierd.evaluator.passages import Corpus, cut

PASSAGES = 60_000
MAX_CHARACTERS = 800
QUERIES = 300
SHOWN, FUSED_DEPTH = 3, 100
LIBRARIES = (
    "numpy",
    "scipy",
    "pandas",
    "sklearn",
    "torch",
    "transformers",
    "ray",
    "sympy",
    "nltk",
    "pyarrow",
    "networkx",
)


def docstring_passages(count: int) -> list[str]:
    """Pieces of docstrings, shortest files first, at most `MAX_CHARACTERS` each, without repetitions."""
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    standard = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, None] = {}
    for folder in (*(packages / name for name in LIBRARIES), standard, packages):
        for path in sorted(folder.rglob("*.py")):
            for text in _docstrings(path):
                found.update(
                    dict.fromkeys(piece for piece in cut(text, max_characters=MAX_CHARACTERS) if len(piece) > 40)
                )
            if len(found) >= count:
                return list(found)[:count]
    raise SystemExit(f"the installed libraries hold {len(found)} passages, {count} are needed")


def _docstrings(path: pathlib.Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def measure(embedded: int = 2_000) -> Iterator[dict[str, object]]:
    """Build and query times."""
    texts = docstring_passages(PASSAGES)
    corpus = Corpus(tuple(str(at) for at in range(len(texts))), tuple(texts))
    embedder = MiniLmEmbedder()
    embedder.embed(texts[:64])
    chosen = texts[:: max(1, len(texts) // embedded)][:embedded]
    started = time.perf_counter()
    real = embedder.embed(chosen)
    embed_s = (time.perf_counter() - started) * len(texts) / len(chosen)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(texts), real.shape[1])).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[: len(real)] = real
    started = time.perf_counter()
    dense = DenseIndex(corpus, vectors, embedder.digest)
    dense.rank(vectors[:1], count=1)
    faiss_s = time.perf_counter() - started
    started = time.perf_counter()
    bm25 = Bm25Index.build(corpus)
    bm25_s = time.perf_counter() - started
    yield {
        "benchmark": "retrieval",
        "figure_of": f"seconds to build FAISS and BM25 over {len(texts)} passages"
        + ("" if len(chosen) == len(texts) else f", embedding extrapolated from {len(chosen)}"),
        "figure": round(embed_s + faiss_s + bm25_s, 1),
        "target": "<= 300",
        "stages_s": {"embed": round(embed_s, 1), "faiss": round(faiss_s, 2), "bm25": round(bm25_s, 1)},
        "characters_mean": round(float(np.mean([len(text) for text in texts]))),
    }
    times = _query_times(dense, bm25, vectors, [text[:200] for text in texts[:: len(texts) // QUERIES]][:QUERIES])
    for name, taken in times.items():
        yield {
            "benchmark": "retrieval",
            "figure_of": f"milliseconds of a query without embedding, p95, {name}",
            "figure": round(float(np.percentile(taken, 95)) * 1000, 2),
            "p50": round(float(np.percentile(taken, 50)) * 1000, 2),
            "target": "<= 20",
            "queries": len(taken),
        }


def _query_times(
    dense: DenseIndex, bm25: Bm25Index, vectors: np.ndarray, questions: list[str]
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"dense": [], "bm25": [], "fused": []}
    for at, question in enumerate(questions):
        started = time.perf_counter()
        near = dense.rank(vectors[at : at + 1], count=FUSED_DEPTH)
        searched = time.perf_counter()
        words = bm25.rank([question], count=FUSED_DEPTH)
        read = time.perf_counter()
        fuse([near, words], count=SHOWN)
        done = time.perf_counter()
        times["dense"].append(searched - started)
        times["bm25"].append(read - searched)
        times["fused"].append(done - started)
    return times


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("--embedded", type=int, default=2_000, help="passages to embed; the rest is extrapolated")
    for result in measure(parser.parse_args().embedded):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
