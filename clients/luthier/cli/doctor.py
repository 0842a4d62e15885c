"""luthier doctor: checks of this machine and its installation, with advice."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from luthier import profiles
from luthier.cli import exits
from luthier.cli.session import Command, Session
from luthier.display import state_of
from luthier.errors import LuthierError, ProfileError
from luthier.health import health_of
from luthier.services import SERVICES

FREE_DISK_GIB = 5.0
"""Measured: the environment takes 3.6 to 5.2 GB, the demo's models, adapters and databases under 1.5."""
FREE_MEMORY_GIB = 6.0
"""Measured: the engine with the demo's model and cache takes about 4 GiB, a training worker 2."""
PORTS = {variable: port for spec in SERVICES.values() for variable, port in spec.port_by_variable.items()}
"""The variables that set the ports of `luthier up`, and their defaults."""
EXTRAS = {
    "server": "sqlalchemy",
    "curation": "presidio_analyzer",
    "trainer": "peft",
    "evaluator": "ragas",
    "inference-cpu or inference-gpu": "vllm",
}
"""Extra: a package that only this extra installs."""


@dataclass(frozen=True)
class Finding:
    """outcome: `ok`, `warn` or `fail`. advice: what to do; empty when ok."""

    check: str
    outcome: str
    found: str
    advice: str = ""


@click.command(cls=Command)
def doctor(session: Session) -> int:
    """Check Python, packages, processor, memory, disk, ports, services and the engine. Exit code 1 if a check fails."""
    findings = [finding for check in (machine, packages, installation) for finding in check(session)]
    if session.as_json:
        session.emit({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = click.style(finding.outcome.ljust(4), fg=_COLOURS[finding.outcome])
            click.echo(f"{mark}  {finding.check}: {finding.found}")
            if finding.advice:
                click.echo(f"      {finding.advice}")
    return exits.FAILED if any(finding.outcome == "fail" for finding in findings) else exits.OK


_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def machine(session: Session) -> Iterator[Finding]:
    """Python, processor, memory, disk."""
    yield _python(sys.version_info[:3])
    yield _processor(pathlib.Path("/proc/cpuinfo"))
    yield _memory(pathlib.Path("/proc/meminfo"))
    yield _disk()


def _python(version: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, version))
    if version < (3, 11, 0):
        return Finding("python", "fail", text, "Luthier needs Python 3.11 or newer")
    return Finding("python", "ok", text)


def _processor(cpuinfo: pathlib.Path) -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        flags = set(next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split())
    except (OSError, StopIteration):
        found = f"{count} cores, features not known"
        return Finding("processor", "warn", found, "serving on a CPU needs AVX2 or AVX-512")
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    found = f"{count} cores, {', '.join(features) or 'no AVX2'}"
    if not features:
        advice = "the CPU engine needs AVX2 or AVX-512: use another machine, or a GPU"
        return Finding("processor", "fail", found, advice)
    if count < 2:
        advice = "training and serving share one core: expect less than half the speed"
        return Finding("processor", "warn", found, advice)
    computes = "bfloat16" if {"avx512_bf16", "amx_bf16"} & flags else "float32"
    return Finding("processor", "ok", f"{found}; models compute in {computes}")


def _memory(meminfo: pathlib.Path) -> Finding:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free_gib = int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError, ValueError):
        return Finding("memory", "warn", "not known", f"the demo needs {FREE_MEMORY_GIB:.0f} GiB free")
    if free_gib < FREE_MEMORY_GIB:
        advice = f"the engine and a training job need {FREE_MEMORY_GIB:.0f} GiB: stop other programs, or train alone"
        return Finding("memory", "warn", f"{free_gib:.1f} GiB free", advice)
    return Finding("memory", "ok", f"{free_gib:.1f} GiB free")


def _disk() -> Finding:
    home = profiles.home()
    place = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free_gib = shutil.disk_usage(place).free / 2**30
    found = f"{free_gib:.1f} GiB free at {home}"
    if free_gib < 1:
        return Finding("disk", "fail", found, "free some space, or set LUTHIER_HOME to another disk")
    if free_gib < FREE_DISK_GIB:
        return Finding("disk", "warn", found, f"{FREE_DISK_GIB:.0f} GiB are recommended")
    return Finding("disk", "ok", found)


def packages(session: Session) -> Iterator[Finding]:
    """What is installed, by extra."""
    yield Finding("luthier", "ok", importlib.metadata.version("luthier"))
    for extra, package in EXTRAS.items():
        if importlib.util.find_spec(package) is None:
            install = f"pip install 'luthier[{extra.split(' or ')[0]}]', or `make setup` in a clone"
            yield Finding(
                f"extra {extra}", "warn", f"{package} is not installed", f"to run this service here: {install}"
            )
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def installation(session: Session) -> Iterator[Finding]:
    """Services of the profile and their engine; free ports if nothing runs here."""
    try:
        endpoints = session.profile.endpoints
    except ProfileError as error:
        yield Finding("installation", "warn", "none runs here", error.message)
        yield from _ports()
        return
    except LuthierError as error:
        yield Finding("profile", "fail", error.message, "correct the profile file or the option")
        return
    health = health_of({name: endpoints.address_of(name) for name in SERVICES}, endpoints.tls)
    for name, found in health.items():
        where = f"{found} at {endpoints.address_of(name) or 'no address'}"
        if found == "SERVING":
            yield Finding(name, "ok", where)
        else:
            yield Finding(name, "fail", where, "start it with `luthier up`; its log is in logs/ of the installation")
    if health["inference"] == "SERVING":
        yield _engine(session)


def _ports() -> Iterator[Finding]:
    ports = {name: int(os.environ.get(name) or port) for name, port in sorted(PORTS.items(), key=lambda item: item[1])}
    taken = {name: port for name, port in ports.items() if _is_taken(port)}
    if taken:
        found = f"in use: {', '.join(map(str, taken.values()))}"
        yield Finding("ports", "fail", found, f"stop what listens there, or set {', '.join(taken)} before `luthier up`")
    else:
        yield Finding("ports", "ok", f"{', '.join(map(str, ports.values()))} are free")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _engine(session: Session) -> Finding:
    try:
        engine: Any = session.run(lambda client: client.engine.get())
    except LuthierError as error:
        return Finding("engine", "fail", error.message, "see `luthier status` and the log of inference")
    state = state_of(engine)
    found = ", ".join(part for part in (state, engine.base_model, engine.version) if part)
    if state == "FAILED":
        advice = "see the log of inference; then `luthier up` again"
        return Finding("engine", "fail", f"{found}: {engine.error.message}", advice)
    return Finding("engine", "ok", found if engine.base_model else f"{found}: it starts at the first request")
