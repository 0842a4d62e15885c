"""`make load`: tenants' traffic against the installation that `luthier up` runs.

    python -m loadtests.run [--tenants scipy,sklearn] [--users 8] [--seconds 30]

Targets are all deployments of the named tenants (default: LUTHIER_TENANT, or the demo's) and the engine's base model.
Exit code 0: the SLO of the scenario holds; 1: it does not; 2: there are no targets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import subprocess
import sys

from luthier import AsyncClient, profiles, tokens
from luthier.errors import LuthierError

SCENARIO = pathlib.Path(__file__).with_name("tenants_mixed.py")
TOKEN_TTL_S = 3600


async def plan(tenants: list[str]) -> dict[str, object]:
    """The targets of all tenants, each with its own token. Raises LuthierError if no installation runs here."""
    targets: list[dict[str, str]] = []
    profile = profiles.resolve(tenant=tenants[0])
    for tenant in tenants:
        profile = profiles.resolve(tenant=tenant)
        if profile.signing_key is None:
            raise SystemExit("the load test needs the local installation's key, to act for several tenants")
        token = tokens.mint(profile.signing_key, tenant=tenant, ttl_s=TOKEN_TTL_S)
        async with AsyncClient(profile.endpoints, token) as client:
            async for deployment in client.deployments.list(f"tenants/{tenant}"):
                model = deployment.name.rpartition("/")[2]
                targets.append({"tenant": tenant, "target": deployment.name, "model": model, "token": token})
            base = (await client.engine.get()).base_model
            if base:
                targets.append({"tenant": tenant, "target": base, "model": base, "token": token})
    http_url = profile.endpoints.openai_http.removesuffix("/v1")
    return {"grpc_address": profile.endpoints.inference, "http_url": http_url, "targets": targets}


def main() -> int:
    """Writes the plan and runs locust with it."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tenants", default=os.environ.get("LUTHIER_TENANT", "scipy,sklearn"), help="comma separated")
    parser.add_argument("--users", type=int, default=8, help="concurrent applications, half gRPC, half HTTP")
    parser.add_argument("--seconds", type=int, default=30, help="duration")
    options = parser.parse_args()
    try:
        made = asyncio.run(plan(options.tenants.split(",")))
    except LuthierError as error:
        print(error, file=sys.stderr)
        return 2
    if not made["targets"]:
        print("no engine and no deployment to load; `make demo`, or `luthier deploy`, first", file=sys.stderr)
        return 2
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(SCENARIO),
        "--headless",
        "--only-summary",
        "--loglevel",
        "WARNING",
    ]
    command += ["--users", str(options.users), "--spawn-rate", str(options.users), "--run-time", f"{options.seconds}s"]
    environment = os.environ | {"LUTHIER_LOAD_PLAN": json.dumps(made)}
    return subprocess.run(command, env=environment, check=False, stdout=None).returncode


if __name__ == "__main__":
    raise SystemExit(main())
