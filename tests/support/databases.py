"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a socket in it, gone at the end."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

NO_VERSIONS = pathlib.Path(__file__).parent / "no-versions"
"""A folder without migrations: `migrate(NO_VERSIONS)` makes the tables of the ground only."""

UNPRIVILEGED_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; in a container the tests often do."""


def binaries() -> pathlib.Path | None:
    """The folder of initdb and pg_ctl: on the PATH, or where Debian puts them."""
    if found := shutil.which("initdb"):
        return pathlib.Path(found).parent
    return max(
        (path.parent for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda folder: int(folder.parent.name),
        default=None,
    )


@contextlib.contextmanager
def cluster(bin_folder: pathlib.Path) -> Iterator[str]:
    """Runs PostgreSQL while the block runs; gives its SQLAlchemy URL."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="luthier-pg-"))
    user = _unprivileged_user()
    if user is not None:
        os.chown(folder, user, -1)

    def run(*command: str) -> None:
        subprocess.run(
            [str(bin_folder / command[0]), *command[1:]],
            check=True,
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    data = str(folder / "data")
    try:
        run(
            "initdb",
            "--pgdata",
            data,
            "--username",
            "luthier",
            "--auth",
            "trust",
            "--no-sync",
            "--no-locale",
            "-E",
            "UTF8",
        )
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=50"
        run("pg_ctl", "--pgdata", data, "--wait", "--log", str(folder / "log"), "--options", options, "start")
        try:
            yield f"postgresql+asyncpg://luthier@/postgres?host={folder}"
        finally:
            run("pg_ctl", "--pgdata", data, "--wait", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged_user() -> int | None:
    """Whose name PostgreSQL runs under; None: ours."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return next(known[name] for name in UNPRIVILEGED_USERS if name in known)
