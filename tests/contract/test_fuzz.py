"""Every field of every RPC with boundary values: whatever is sent is answered or refused, with the field's name.

Nothing may end INTERNAL or UNKNOWN, take longer than `fuzzing.CALL_LIMIT_S`, or be refused by gRPC instead of us. The
requests are made from the descriptors, so that a new RPC is covered. FUZZ_VALUES=100 FUZZ_SEED=7 tries more.
"""

from __future__ import annotations

import os
import pathlib
import random

import pytest
from support.contracts import methods_of
from support.fuzzing import fuzz
from support.worlds import WORLDS

VALUES_PER_FIELD = int(os.environ.get("FUZZ_VALUES", "3"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


@pytest.mark.parametrize("service", WORLDS)
async def test_no_value_of_any_field_is_an_error_of_the_server(service: str, tmp_path: pathlib.Path) -> None:
    async with WORLDS[service](tmp_path) as world:
        wrong = await fuzz(world, methods_of(service), rng=random.Random(SEED), values_per_field=VALUES_PER_FIELD)
    assert wrong == []
