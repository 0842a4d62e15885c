"""luthier up | down | status: the installation on this machine, through `python -m luthierd.supervisor`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from luthier import profiles
from luthier.cli import exits
from luthier.cli.progress import Progress
from luthier.cli.session import Command, Session
from luthier.errors import LuthierError
from luthier.health import health_of
from luthier.services import SERVICES

CLIENT_VARIABLES = ("LUTHIER_ENDPOINT", "LUTHIER_TENANT", "LUTHIER_TOKEN", "LUTHIER_PROFILE")
"""Only the client reads these; servers must not see a token in their environment."""


class SupervisorError(LuthierError):
    """An error of the supervisor, with its reason and message."""


class NotInstalledError(LuthierError):
    reason = "SERVERS_NOT_INSTALLED"


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Stay, and start services that die again, until `luthier down`.")
def up(session: Session, *, watch: bool) -> None:
    """Start the four services on this machine and wait until they serve. Running services are left alone."""
    _only_here(session, "up")
    result: dict[str, Any] = {}
    with Progress(session, "starting") as progress:
        served = 0
        for event in supervise("up", *(["--watch"] if watch else [])):
            if event["event"] == "result":
                result = event
            elif session.as_json:
                session.emit(event)
            elif event["event"] == "serving":
                served += 1
                progress.note(f"{event['service']} serves on {event['address']}")
                progress.update("starting", done=served, total=len(SERVICES))
            elif event["event"] == "starting":
                detail = f"{event['service']} (log: {event['log']})"
                progress.update("starting", done=served, total=len(SERVICES), detail=detail)
            elif event["event"] == "watching":
                progress.update("watching", done=served, total=len(SERVICES))
            elif event["event"] == "ended":
                progress.note(
                    f"{event['service']} died ({event['said']}): started again in {event['restart_in_s']:g} s"
                )
    _show(session, result)


@click.command(cls=Command)
def down(session: Session) -> None:
    """Stop the services and workers of this machine. Jobs continue after the next `luthier up`."""
    _only_here(session, "down")
    for event in supervise("down"):
        if session.as_json:
            session.emit(event)
        elif event["event"] == "stopping":
            session.note(f"stopping {event['service']}")
        elif event["event"] == "killing":
            session.note(f"process {event['pid']} did not stop in {event['after_s']:.0f} s: killed")
        elif event["event"] == "result":
            click.echo(f"stopped {', '.join(event['stopped'])}" if event["stopped"] else "nothing was running")


@click.command(cls=Command)
def status(session: Session) -> int:
    """Show what runs and whether it serves. Exit code 69 if something does not."""
    if session.endpoint or os.environ.get("LUTHIER_ENDPOINT"):
        endpoints = session.profile.endpoints
        addresses = {name: endpoints.address_of(name) for name in SERVICES}
        health = health_of(addresses, endpoints.tls)
        services = {name: {"address": addresses[name], "health": health[name]} for name in addresses}
        result: dict[str, Any] = {"event": "result", "services": services}
    else:
        result = {"event": "result", "home": str(profiles.home())}
        for event in supervise("status"):
            result |= event if event["event"] == "result" else {}
    return _show(session, result)


def _only_here(session: Session, verb: str) -> None:
    if session.endpoint:
        raise click.UsageError(f"`luthier {verb}` works on this machine only: leave out --endpoint")


def supervise(verb: str, *arguments: str, module: str = "luthierd.supervisor") -> Iterator[dict[str, Any]]:
    """Yields the supervisor's events; `SupervisorError` for its error. Closing the iterator ends the supervisor."""
    if importlib.util.find_spec("luthierd") is None:
        raise NotInstalledError(
            "the servers are not installed here; install them with `make setup` in a clone, or with the extras that "
            "`luthier doctor` lists, or name a remote installation with --endpoint"
        )
    environment = {key: value for key, value in os.environ.items() if key not in CLIENT_VARIABLES}
    command = [sys.executable, "-m", module, verb, *arguments, "--json"]
    ended = False
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            for event in _events(process.stdout):
                if event.get("event") == "error":
                    raise SupervisorError(event["message"], reason=event.get("reason"), metadata=event.get("metadata"))
                ended |= event.get("event") == "result"
                yield event
        finally:
            process.terminate()  # it has ended already unless this command was interrupted
    if not ended:
        raise SupervisorError(
            f"the supervisor ended with code {process.returncode} and no result; its output is above",
            reason="SUPERVISOR_FAILED",
        )


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """JSON lines as mappings; skips what libraries print between them."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _show(session: Session, result: dict[str, Any]) -> int:
    services: dict[str, dict[str, Any]] = result.get("services", {})
    serving = bool(services) and all(service.get("health") == "SERVING" for service in services.values())
    if session.as_json:
        session.emit(result)
    else:
        fields = ("health", "address", "pid", "metrics_address", "restart_count")
        rows = [(name, *(found.get(field, "") for field in fields)) for name, found in services.items()]
        session.table(["service", "health", "address", "pid", "metrics", "#restarts"], rows)
        http_address = services.get("inference", {}).get("http_address")
        if http_address:
            click.echo(f"OpenAI-compatible: http://{http_address}/v1")
        if not serving:
            session.note("start the missing services with `luthier up`")
    return exits.OK if serving else exits.UNAVAILABLE
