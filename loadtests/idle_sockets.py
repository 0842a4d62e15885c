"""Scenario: somebody without a token holds connections and streams while a tenant continues as before.

Held are silent sockets, headers and bodies that never end, and streams of Health.Watch, on both ports, by another
process; what the server closes is opened again ten seconds later. SLO: the tenant's p95 of time to first token, and of
the whole answer, is at most 1.25 times its p95 without them, none of its requests fails or is refused, and every check
of health is answered within a second.

    python -m loadtests.idle_sockets --tenants acme [--share 4] [--held 600] [--seconds 20] [--rounds 2]

The server is the installation that `luthier up` runs, or the one in LUTHIER_LOAD_PLAN (see run.py).

Exit code 0: the SLO holds; 1: it does not; 2: there are no targets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import sys
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from luthier import errors

from loadtests.run import plan
from loadtests.tenant_flood import MAX_TOKENS, SLO_RATIO, Seen, connected, p95, run_phase

REQUESTS = (
    b"",
    b"GET /health HTTP/1.1\r\nhost: x\r\nx: ",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{",
)
STREAMS_PER_CHANNEL = 50
HEALTH_LIMIT_S = 1.0
HEALTH_INTERVAL_S = 0.2
PAUSE_S = 10.0
"""Before a connection that was closed is opened again."""
SETTLE_S = 3.0
"""For all of them to be opened, before the phase begins."""


async def hold_socket(address: str, sent: bytes) -> None:
    """Connects, says `sent` and no more, and waits for the end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        await reader.read()
    finally:
        writer.close()


async def hold_watch(channel: grpc.aio.Channel) -> None:
    """Watches health until the stream ends."""
    async for _ in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
        pass


async def again_and_again(hold: Callable[[], Awaitable[None]]) -> None:
    while True:
        with contextlib.suppress(OSError, grpc.aio.AioRpcError):
            await hold()
        await asyncio.sleep(PAUSE_S)


async def hold_all(grpc_address: str, http_address: str, count: int) -> None:
    """Holds `count` of each kind until it is cancelled; says so on stdout once all were opened."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(grpc_address, options))
            for _ in range(-(-count // STREAMS_PER_CHANNEL))
        ]
        for number in range(count):
            sent, channel = REQUESTS[number % len(REQUESTS)], channels[number // STREAMS_PER_CHANNEL]
            for hold in (
                functools.partial(hold_socket, http_address, sent),
                functools.partial(hold_socket, grpc_address, b""),
                functools.partial(hold_watch, channel),
            ):
                group.create_task(again_and_again(hold))
        await asyncio.sleep(SETTLE_S)
        print("held", flush=True)


@contextlib.asynccontextmanager
async def attack(*arguments: str) -> AsyncIterator[None]:
    """`hold_all` in another process while the block runs."""
    command = [sys.executable, "-m", "loadtests.idle_sockets", "--hold", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        await process.stdout.readline()  # type: ignore[union-attr] # it is a pipe
        yield
    finally:
        process.kill()
        await process.wait()


async def watch_health(grpc_address: str, http_address: str, failures: list[str]) -> None:
    """Checks the health of both ports, each time over a new connection."""
    while True:
        try:
            async with asyncio.timeout(HEALTH_LIMIT_S), httpx.AsyncClient() as client:
                (await client.get(f"http://{http_address}/health")).raise_for_status()
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with asyncio.timeout(HEALTH_LIMIT_S), grpc.aio.insecure_channel(grpc_address, options) as channel:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        except (TimeoutError, httpx.HTTPError, grpc.aio.AioRpcError) as error:
            failures.append(f"health: {error!r:.200}")
        await asyncio.sleep(HEALTH_INTERVAL_S)


async def measure(tenant: str, *, share: int, held: int, seconds: float, round_count: int) -> bool:
    """Alternates calm and attacked phases and prints the tenant's results; True if the SLO holds."""
    given = os.environ.get("LUTHIER_LOAD_PLAN")
    made = json.loads(given) if given else await plan([tenant])
    grpc_address, http_address = str(made["grpc_address"]), urllib.parse.urlsplit(str(made["http_url"])).netloc
    calm, attacked, failures = Seen(), Seen(), list[str]()
    async with connected([tenant, tenant]) as both:

        async def phase(length_s: float) -> Seen:
            one, other = await run_phase(both, share // 2, seconds=length_s, max_tokens=MAX_TOKENS)
            one.add(other)
            return one

        await phase(min(seconds, 3.0))  # warms the engine up
        for _ in range(round_count):
            calm.add(await phase(seconds))
            async with attack(grpc_address, http_address, str(held)):
                checking = asyncio.create_task(watch_health(grpc_address, http_address, failures))
                attacked.add(await phase(seconds))
                checking.cancel()
    failures += [*calm.failures, *attacked.failures]
    holds = not failures and bool(calm.total_s and attacked.total_s) and not attacked.refused_count
    for kind in ("ttft", "total"):
        before_s, during_s = (p95(getattr(seen, f"{kind}_s")) for seen in (calm, attacked))
        ratio = during_s / before_s if before_s else 0.0
        holds = holds and ratio <= SLO_RATIO
        print(
            json.dumps(
                {
                    "ratio": f"{kind} p95 of a tenant while strangers hold {held} of each kind / without them",
                    "value": round(ratio, 3),
                    "reach": SLO_RATIO,
                    "before_ms": round(before_s * 1000, 1),
                    "during_ms": round(during_s * 1000, 1),
                    "requests": [len(calm.total_s), len(attacked.total_s)],
                }
            )
        )
    print(json.dumps({"holds": holds, "failures": len(failures)}))
    for failure in sorted(set(failures)):
        print(f"FAILED {failure}", file=sys.stderr)
    return holds


def main() -> int:
    """Parses the options and runs the scenario."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.idle_sockets", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tenants", default="scipy", help="the measured tenant")
    parser.add_argument("--share", type=int, default=4, help="its concurrent requests, an even number")
    parser.add_argument("--held", type=int, default=600, help="connections and streams of each kind that are held")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each phase")
    parser.add_argument("--rounds", type=int, default=2, help="number of phases of each kind")
    parser.add_argument("--hold", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        grpc_address, http_address, count = options.hold
        asyncio.run(hold_all(grpc_address, http_address, int(count)))
    try:
        holds = asyncio.run(
            measure(
                options.tenants.split(",")[0],
                share=options.share,
                held=options.held,
                seconds=options.seconds,
                round_count=options.rounds,
            )
        )
    except errors.LuthierError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
