"""What the log says of an engine's start."""

from __future__ import annotations

import pytest
from luthierd.inference.domain.engine import EngineState
from support.inference_calls import CONFIG
from support.inference_fakes import BASE
from support.inference_parts import make_parts
from support.serving import running
from support.waiting import until


async def test_a_start_is_logged_with_the_time_of_each_of_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG):
        with caplog.at_level("INFO", logger="luthierd.inference.engine.host"):
            await parts.host.want(BASE)
            await until(lambda: parts.host.status.state is EngineState.READY)
    ready = next(one for one in caplog.records if one.message == "engine ready")
    assert list(ready.stages_s) == ["fetch", "wake", "replay"]
    assert ready.stages_s["wake"] == parts.engine.start_stages[0].duration_s
