"""A worker with little to do: `python -m counting_worker <job>` counts to `payload["steps"]`, a checkpoint a step.

With `payload["hangs_in"]` it hangs after the first step and hears nothing: in a `thread`, or in the `interpreter`,
whose lock it holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import sys
import threading
import time

from luthierd.config import ServerConfig
from luthierd.files import write_atomically
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import JobContext, Outcome, run_job
from luthierd.process import run
from luthierd.storage.database import Database

STEP_S = 0.05
"""What a step of the work takes."""


HANGS = {"thread": threading.Event().wait, "interpreter": lambda: re.match(r"(a+)+$", "a" * 100 + "b")}


async def main(config: ServerConfig) -> None:
    """Works on the job named on the command line."""
    name = sys.argv[1]
    checkpoint = config.home / f"{name.rpartition('/')[2]}.json"
    database = Database(config.database_url, schema=os.environ["COUNTING_SCHEMA"])

    async def work(context: JobContext) -> Outcome:
        return Outcome(await asyncio.to_thread(count, context, checkpoint))

    await run_job(JobQueue.of(config, database), name, work)
    await database.close()


def count(context: JobContext, checkpoint: pathlib.Path) -> dict[str, list[int]]:
    """Goes on where the checkpoint ends. The result: the process of each step."""
    done: list[int] = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    while len(done) < context.job.payload["steps"]:
        context.raise_if_cancelled()
        time.sleep(STEP_S)
        done.append(os.getpid())
        write_atomically(checkpoint, iter([json.dumps(done).encode()]))
        context.emit("progress", {"step": len(done), "pid": os.getpid()})
        if hangs_in := context.job.payload.get("hangs_in"):
            context.settle()
            HANGS[hangs_in]()
    return {"pids": done}


if __name__ == "__main__":
    run("trainer", ServerConfig, main)
