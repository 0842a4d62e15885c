"""What the table of clients in docs/http.md says is true."""

from __future__ import annotations

import pathlib
import re

import httpx
import pytest
from support.inference_server import InferenceServer
from support.openai_clients import CHECKS, CLIENTS, ROOT, run_client
from support.waiting import until

STOP_S = 5.0
"""An answer that nobody reads would take several times as long."""


def table() -> dict[str, dict[str, str]]:
    """Its cells, by client and column."""
    lines = [line for line in (ROOT / "docs/http.md").read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = next(row for row in rows if row[0] == "client")
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head) and row[0] in CLIENTS}


async def is_idle(server: InferenceServer) -> bool:
    """Whether the engine computes nothing."""
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"http://127.0.0.1:{server.metrics_port}/metrics")).text
    return sum(map(float, re.findall(r"^luthier_engine_(?:running|waiting) (\S+)$", page, flags=re.M))) == 0


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_does_what_the_documentation_says(
    client: str, server: InferenceServer, model_folder: pathlib.Path
) -> None:
    results = run_client(client, server, tokenizer=model_folder)
    await until(lambda: is_idle(server), timeout_s=STOP_S)
    assert {name: "yes" if name in results else "-" for name in CHECKS} == {
        name: table()[client][name] for name in CHECKS
    }


def test_the_documentation_lists_every_client() -> None:
    assert table().keys() == CLIENTS.keys()
