"""/v1/embeddings: the mean of the model's last states over a text, at length 1, as over gRPC."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from luthierd.inference.completions.scoring import Scoring
from luthierd.inference.domain.completion import TokenIds
from luthierd.inference.http.exchange import Asked, Reply, origin_headers
from luthierd.inference.http.fields import prompts_of


class Embedding:
    """Answers with a vector for each input."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    async def answer(self, asked: Asked, reply: Reply) -> None:
        """EmbedUnsupportedError, PromptTooLongError."""
        given = prompts_of(asked.body["input"], "input")
        embedded = await self._scoring.embed(
            asked.target,
            [one if isinstance(one, str) else TokenIds(one) for one in given],
            tenant=asked.tenant,
            session_id=asked.session_id,
            field="input",
        )
        encode = _base64 if asked.body["encoding_format"] == "base64" else list
        reply.headers = origin_headers(embedded.origin, embedded.response_id)
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(embedded.vectors)
        ]
        count = embedded.prompt_token_count
        usage = {"prompt_tokens": count, "total_tokens": count}
        await reply.send(200, {"object": "list", "data": data, "model": asked.model, "usage": usage})


def _base64(vector: Sequence[float]) -> Any:
    """OpenAI's form: 32-bit floats, least significant byte first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
