"""Generates the committed stubs from protos/ and checks the contracts with buf.

python scripts/protos.py generate     # rewrites clients/luthier/*/v1/*_pb2*
python scripts/protos.py check        # lint, format, breaking against main, stubs up to date
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / ".build"
PROTOS = sorted(str(p.relative_to(ROOT / "protos")) for p in (ROOT / "protos").rglob("*.proto"))


def tool(name: str) -> str:
    """Path of a program installed next to the running interpreter."""
    return str(pathlib.Path(sys.executable).parent / name)


def googleapis() -> pathlib.Path:
    """A folder with the files of google/api and google/rpc that we import, as buf needs it."""
    folder = BUILD / "googleapis"
    shutil.rmtree(folder, ignore_errors=True)
    wanted = {
        "google/api/field_behavior.proto",
        "google/api/field_info.proto",
        "google/api/resource.proto",
        "google/rpc/status.proto",
    }
    for file in importlib.metadata.files("googleapis-common-protos") or []:
        if str(file) in wanted:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)
    return folder


def generate(out: pathlib.Path) -> None:
    """Writes message stubs, gRPC stubs and their type stubs below `out`."""
    from grpc_tools import protoc

    spec = importlib.util.find_spec("grpc_tools")
    assert spec is not None
    assert spec.origin is not None
    well_known = pathlib.Path(spec.origin).parent / "_proto"
    includes = [f"-I{ROOT / 'protos'}", f"-I{googleapis()}", f"-I{well_known}"]
    plugins = [f"--plugin=protoc-gen-{name}={tool('protoc-gen-' + name)}" for name in ("mypy", "mypy_grpc")]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main(["protoc", *includes, *plugins, *outputs, *PROTOS]) != 0:
        raise SystemExit("protoc failed: see above")


def run(*command: str) -> bool:
    """Runs a command at the root; True if it succeeds."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def is_compatible_with_main() -> bool:
    """`buf breaking` FILE against the main branch; passes where main has no contracts yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        archive = folder / "main.tar"
        if subprocess.run(
            ["git", "archive", "-o", str(archive), "main", "protos", "buf.yaml"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        ).returncode:
            print("buf breaking: skipped, there is no main branch with contracts to compare with")
            return True
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        shutil.copytree(BUILD / "googleapis", folder / ".build/googleapis")
        return run(tool("buf"), "breaking", "--against", str(folder))


def stubs_are_current() -> bool:
    """Whether the committed stubs are what `generate` writes."""
    with tempfile.TemporaryDirectory() as name:
        fresh = pathlib.Path(name)
        generate(fresh)
        made = {p.relative_to(fresh): p.read_bytes() for p in fresh.rglob("*_pb2*")}
    clients = ROOT / "clients"
    kept = {p.relative_to(clients): p.read_bytes() for p in clients.rglob("*_pb2*.py*") if p.suffix in {".py", ".pyi"}}
    stale = sorted(str(path) for path in made.keys() | kept.keys() if made.get(path) != kept.get(path))
    if stale:
        print("stubs differ from protos/; run `make protos` and commit:", *stale, sep="\n  ")
    return not stale


def main() -> int:
    if sys.argv[1:] == ["generate"]:
        generate(ROOT / "clients")
        return 0
    if sys.argv[1:] == ["check"]:
        googleapis()
        checks = [
            run(tool("buf"), "lint"),
            run(tool("buf"), "format", "protos", "-d", "--exit-code"),
            is_compatible_with_main(),
            stubs_are_current(),
        ]
        return 0 if all(checks) else 1
    print(__doc__)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
