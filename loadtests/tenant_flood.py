"""Scenario: one tenant floods the server while another continues as before. `loadtests/shapes.py` has the floods.

SLO: the other tenant's p95 of time to first token, and of the whole answer, is at most 1.25 times its p95 while both
stay within their shares, and none of its requests fails. The flood may be rejected (RESOURCE_EXHAUSTED) immediately.

    python -m loadtests.tenant_flood --tenants acme,globex --share 16 [--shape long-prompts] [--seconds 30] [--rounds 2]

`--share` is the number of concurrent requests per tenant: half of the server's `LUTHIER_INFERENCE_MAX_NUM_SEQS`. The
server is the installation that `luthier up` runs, or the one in LUTHIER_LOAD_PLAN (see run.py). Phases with and without
the flood alternate, so that changes of the machine's speed affect both. In each phase the tenant sends the same
questions in the same order, for answers of 8 to 32 tokens (`--equal`: all 32). Without the flood the other tenant does
so, too. `--shape all` runs every shape.

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
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx
import luthier
from luthier import errors

from loadtests.run import plan
from loadtests.shapes import SHAPES, Flooding, RefusedError, Shape

SLO_RATIO = 1.25
MAX_TOKENS = (32, 13, 27, 8, 22, 17, 30, 11)
"""Of the answers, in turn."""
MAX_REQUESTS = 5000
"""Of one phase, refused ones included; a phase ends there or after its seconds."""
TIMEOUT_S = 120.0
RETRY_S = 1.0
"""Pause of a flooding caller whose request was refused for good: it asks again."""
PROMPT = "Write about request number {} in one line."


@dataclass(kw_only=True)
class Seen:
    """Results of a tenant's requests. Times are in seconds from the call to the first and the last token."""

    asked_count: int = 0
    ttft_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    token_count: int = 0
    refused_count: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        """Adds the results of another phase."""
        self.asked_count += other.asked_count
        self.ttft_s += other.ttft_s
        self.total_s += other.total_s
        self.token_count += other.token_count
        self.refused_count += other.refused_count
        self.failures += other.failures


@dataclass
class Phase:
    """A phase of load with an end."""

    end_s: float
    max_tokens: Sequence[int]
    request_count: int = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end_s or self.request_count >= MAX_REQUESTS

    async def request(self, client: luthier.AsyncClient, target: str, seen: Seen, *, is_timed: bool = True) -> None:
        """One streamed answer. After a rejection it waits as long as the server says."""
        self.request_count += 1
        seen.asked_count += 1
        began, first = time.monotonic(), 0.0
        prompt, max_tokens = PROMPT.format(seen.asked_count), self.max_tokens[seen.asked_count % len(self.max_tokens)]
        try:
            stream = client.inference.generate_stream(target, prompt, max_tokens=max_tokens, timeout_s=TIMEOUT_S)
            async with contextlib.aclosing(stream) as messages:
                async for message in messages:
                    first = first or time.monotonic()
                    seen.token_count += message.finish.completion_token_count
        except errors.ResourceExhaustedError as error:
            seen.refused_count += 1
            left_s = max(0.0, self.end_s - time.monotonic())
            await asyncio.sleep(min(error.retry_after_s or 0.1, left_s))
            return
        except errors.LuthierError as error:
            seen.failures.append(str(error))
            return
        if is_timed:
            seen.ttft_s.append(first - began)
            seen.total_s.append(time.monotonic() - began)

    async def application(self, client: luthier.AsyncClient, target: str, seen: Seen) -> None:
        """Sends the next request as soon as it has an answer, until the phase is over.

        The first answer is not timed: all applications start at the same moment, which is not the flood's doing.
        """
        await self.request(client, target, seen, is_timed=False)
        while not self.is_over:
            await self.request(client, target, seen)

    async def flood(self, flooding: Flooding, shape: Shape, seen: Seen) -> None:
        """Sends requests of the shape, each as soon as the last one has ended, until the phase is over."""
        while not self.is_over:
            self.request_count += 1
            seen.asked_count += 1
            try:
                seen.token_count += await shape.send(flooding, seen.asked_count)
            except (errors.ResourceExhaustedError, errors.InvalidArgumentError, RefusedError) as error:
                seen.refused_count += 1
                await asyncio.sleep(min(error.retry_after_s or RETRY_S, max(0.0, self.end_s - time.monotonic())))
            except (errors.LuthierError, httpx.HTTPError) as error:
                seen.failures.append(str(error))


async def run_phase(
    tenants: Sequence[Flooding], share: int, *, seconds: float, max_tokens: Sequence[int], shape: Shape | None = None
) -> list[Seen]:
    """Results of two tenants with `share` callers each; with a shape the second one floods.

    Lasts as long as the first tenant's requests.
    """
    phase, seen = Phase(time.monotonic() + seconds, max_tokens), [Seen(), Seen()]
    me, other = tenants
    async with asyncio.TaskGroup() as group:
        measured = [group.create_task(phase.application(me.client, me.target, seen[0])) for _ in range(share)]
        if shape is None:
            others = [group.create_task(phase.application(other.client, other.target, seen[1])) for _ in range(share)]
        else:
            others = [group.create_task(phase.flood(other, shape, seen[1])) for _ in range(shape.callers(share))]
        await asyncio.wait(measured)
        for task in others:  # its remaining requests do not matter
            task.cancel()
    return seen


def p95(values: list[float]) -> float:
    """The nearest-rank 95th percentile; 0 if empty."""
    return sorted(values)[max(0, -(-95 * len(values) // 100) - 1)] if values else 0.0


@contextlib.asynccontextmanager
async def connected(tenants: list[str]) -> AsyncIterator[list[Flooding]]:
    """Clients and a target per tenant: its first deployment, or the base model."""
    given = os.environ.get("LUTHIER_LOAD_PLAN")
    made = json.loads(given) if given else await plan(tenants)
    endpoints = luthier.Endpoints(inference=made["grpc_address"])
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for tenant in tenants:
            own = [target for target in made["targets"] if target["tenant"] == tenant]
            if not own:
                raise SystemExit(2)
            token = own[0]["token"]
            client = await stack.enter_async_context(luthier.AsyncClient(endpoints, token))
            headers = {"authorization": f"Bearer {token}"}
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=made["http_url"], headers=headers))
            found.append(Flooding(client=client, http=http, target=own[0]["target"]))
        yield found


async def measure(
    tenants: list[str], name: str, *, share: int, seconds: float, round_count: int, max_tokens: Sequence[int]
) -> bool:
    """Runs the phases of a shape and prints the first tenant's results by kind; True if the SLO holds."""
    calm, flooded, flood = Seen(), Seen(), Seen()
    async with connected(tenants) as both:
        phase = functools.partial(run_phase, both, share, max_tokens=max_tokens)
        await phase(seconds=min(seconds, 3.0))  # warms the engine up
        for _ in range(round_count):
            calm.add((await phase(seconds=seconds))[0])
            mine, theirs = await phase(seconds=seconds, shape=SHAPES[name])
            flooded.add(mine)
            flood.add(theirs)
    holds = bool(calm.total_s and flooded.total_s) and not calm.failures and not flooded.failures
    holds = holds and not calm.refused_count and not flooded.refused_count
    for kind in ("ttft", "total"):
        before_s, during_s = (p95(getattr(seen, f"{kind}_s")) for seen in (calm, flooded))
        ratio = during_s / before_s if before_s else 0.0
        holds = holds and ratio <= SLO_RATIO
        print(
            json.dumps(
                {
                    "shape": name,
                    "ratio": f"{kind} p95 of a tenant while another floods / while both keep to their shares",
                    "value": round(ratio, 3),
                    "reach": SLO_RATIO,
                    "before_ms": round(before_s * 1000, 1),
                    "during_ms": round(during_s * 1000, 1),
                    "requests": [len(calm.total_s), len(flooded.total_s)],
                }
            )
        )
    tokens = {"tenant": flooded.token_count, "flood": flood.token_count}
    asked = {"flood_requests": flood.asked_count, "flood_refused": flood.refused_count}
    print(json.dumps({"shape": name, "tokens_during_flood": tokens, **asked, "holds": holds}), flush=True)
    for failure in sorted({*calm.failures, *flooded.failures, *flood.failures}):
        print(f"FAILED {failure}", file=sys.stderr)
    return holds


def main() -> int:
    """Parses the options and runs the scenario."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.tenant_flood", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tenants", default="scipy,sklearn", help="the measured tenant, and the one that floods")
    parser.add_argument("--shape", default="answers", choices=[*SHAPES, "all"], help="what the flood asks")
    parser.add_argument("--share", type=int, default=16, help="concurrent requests of a tenant within its share")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each phase")
    parser.add_argument("--rounds", type=int, default=2, help="number of phases of each kind")
    parser.add_argument("--equal", action="store_true", help="answers of equal length, which begin and end together")
    options = parser.parse_args()
    tenants = options.tenants.split(",")
    if len(tenants) != 2:
        parser.error("name two tenants")
    run = functools.partial(
        measure,
        tenants,
        share=options.share,
        seconds=options.seconds,
        round_count=options.rounds,
        max_tokens=[max(MAX_TOKENS)] if options.equal else MAX_TOKENS,
    )
    try:
        hold = [asyncio.run(run(name)) for name in (SHAPES if options.shape == "all" else [options.shape])]
    except errors.LuthierError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if all(hold) else 1


if __name__ == "__main__":
    raise SystemExit(main())
