"""The API process of the counting jobs: just a launcher, until a signal comes."""

from __future__ import annotations

import asyncio
import os
import signal

from luthierd.config import ServerConfig
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.process import run
from luthierd.storage.database import Database


async def main(config: ServerConfig) -> None:
    """Launches workers."""
    database = Database(config.database_url, schema=os.environ["COUNTING_SCHEMA"])
    queue = JobQueue.of(config, database)
    launcher = Launcher(
        queue,
        module=os.environ.get("COUNTING_WORKER", "counting_worker"),
        worker_count=config.worker_count,
        log_folder=config.home / "logs",
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    launching = asyncio.create_task(launcher.run())
    await stop.wait()
    launching.cancel()
    await database.close()


if __name__ == "__main__":
    run("trainer", ServerConfig, main)
