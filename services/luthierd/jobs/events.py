"""The events of a job from any point on until it is final, with heartbeats in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from luthierd.jobs.queue import JobEvent, JobQueue

POLL_INTERVAL_S = 0.3
"""Workers are other processes and report through the database; people do not notice this delay."""

HEARTBEAT_INTERVAL_S = 10.0


async def watch(
    queue: JobQueue,
    name: str,
    *,
    after_event_id: int,
    stopping: asyncio.Event,
    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S,
) -> AsyncIterator[JobEvent | None]:
    """Yields the events after `after_event_id` in order, and None as a heartbeat.

    Ends after the last event of a final job, or with `stopping`. JobNotFoundError at the first step.
    """
    sent_time = time.monotonic()
    while True:
        job = await queue.get(name)  # read before its events, so that they include the final state
        events = await queue.events(name, after_event_id=after_event_id)
        for event in events:
            yield event
            after_event_id, sent_time = event.event_id, time.monotonic()
        if stopping.is_set() or (job.state.is_final and after_event_id >= job.last_event_id):
            return
        if not events:
            if time.monotonic() - sent_time >= heartbeat_interval_s:
                yield None
                sent_time = time.monotonic()
            try:
                await asyncio.wait_for(stopping.wait(), POLL_INTERVAL_S)
            except TimeoutError:
                continue
            return
