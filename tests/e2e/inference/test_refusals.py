"""Adapters that must not be served, with real files before the real engine: each is refused for its own reason."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib
import pickle
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from luthier import AsyncClient, Endpoints
from luthier import errors as client_errors
from luthier.trainer.v1 import adapter_pb2
from luthierd.storage.manifests import Manifest, read_manifest
from safetensors.numpy import load_file, save_file
from support import tiny_model
from support.inference_server import InferenceServer

pytestmark = pytest.mark.e2e

NAME = "tenants/west/deployments/style"
PROMPT = "what is refused?"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
async def client(server: InferenceServer) -> AsyncIterator[AsyncClient]:
    """An SDK client of a tenant that no other test uses."""
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("west")) as made:
        yield made


def made(
    server: InferenceServer, kind: str, *, seed: int, spoil: Callable[[pathlib.Path], object], **options: object
) -> str:
    """A revision of an adapter that was whole before it was spoilt."""
    folder = tiny_model.write_adapter(server.folder / "made" / f"west-{kind}", seed=seed, **options)  # type: ignore[arg-type]
    spoil(folder)
    return server.register(f"tenants/west/adapters/{kind}/revisions/r1", folder)


def with_nan(folder: pathlib.Path) -> None:
    """One number of the weights is none."""
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, folder / WEIGHTS)


def with_unknown_module(folder: pathlib.Path) -> None:
    """One tensor is for a module that the base model does not have."""
    tensors = {name.replace("q_proj", "qkv_proj"): values for name, values in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


def of_other_base(folder: pathlib.Path) -> None:
    """The lineage says that it was trained on something else."""
    digests = dict.fromkeys(("sha256", "tokenizer_sha256", "chat_template_sha256"), "f" * 64)
    (folder / "lineage.json").write_text(json.dumps({"base_model": digests}))


def off_reference(folder: pathlib.Path) -> None:
    """The training recorded log-probabilities that the engine does not get."""
    row = {"prompt_ids": [1, 2, 3], "completion_ids": [4, 5], "base_logprobs": [-9.0] * 2, "tuned_logprobs": [-0.1] * 2}
    (folder / "reference.json").write_text(json.dumps({"dtype": "float32", "rows": [row]}))


def with_pickle(folder: pathlib.Path) -> None:
    """Beside the weights there is a file that would run code."""
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(print))


def oversized(folder: pathlib.Path) -> None:
    """More bytes than the server takes."""
    (folder / "notes.txt").write_bytes(bytes(9 * 2**20))


def truncated(folder: pathlib.Path) -> None:
    """The file ends too early, and was stored like that."""
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])


def corrupt(server: InferenceServer) -> str:
    """A stored byte changed after it was stored."""
    name = made(server, "corrupt", seed=31, spoil=lambda folder: None)
    digest = hashlib.sha256((server.folder / "made/west-corrupt" / WEIGHTS).read_bytes()).hexdigest()
    stored = server.blobs.local_path(digest)
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    return name


def escaping(server: InferenceServer) -> str:
    """The manifest names a path outside of its folder."""
    whole = made(server, "escaping", seed=32, spoil=lambda folder: None)
    revision = server.trainer.revisions[whole]
    files = dict(read_manifest(server.blobs, revision.sha256).files)
    files["../../../escaped.json"] = files["adapter_config.json"]
    sha256 = server.blobs.put_bytes(Manifest(files).to_json()).sha256
    server.trainer.revisions[whole] = adapter_pb2.AdapterRevision(
        name=whole, sha256=sha256, base_model=revision.base_model, base_model_sha256=revision.base_model_sha256
    )
    return whole


def bad_revisions(server: InferenceServer) -> dict[str, tuple[str, str]]:
    """Stage and cause of each refusal, by revision."""
    return {
        corrupt(server): ("fetch", "BLOB_CORRUPT"),
        escaping(server): ("fetch", "MANIFEST_INVALID"),
        made(server, "pickled", seed=33, spoil=with_pickle): ("fetch", "ADAPTER_FILE_FORBIDDEN"),
        made(server, "oversized", seed=34, spoil=oversized): ("fetch", "ADAPTER_TOO_LARGE"),
        made(server, "truncated", seed=35, spoil=truncated): ("verify", "ADAPTER_TRUNCATED"),
        made(server, "nan", seed=36, spoil=with_nan): ("verify", "ADAPTER_NOT_FINITE"),
        made(server, "large-rank", seed=37, spoil=lambda folder: None, rank=128): ("verify", "ADAPTER_RANK_TOO_LARGE"),
        made(server, "other-base", seed=38, spoil=of_other_base): ("verify", "ADAPTER_OF_OTHER_BASE"),
        made(server, "unknown-module", seed=39, spoil=with_unknown_module): ("verify", "ADAPTER_MODULE_UNKNOWN"),
        made(server, "idle", seed=40, spoil=lambda folder: None, strength=0.0): (
            "parity_check",
            "ADAPTER_HAS_NO_EFFECT",
        ),
        made(server, "off-reference", seed=41, spoil=off_reference): (
            "parity_check",
            "ADAPTER_DEVIATES_FROM_REFERENCE",
        ),
    }


async def test_every_bad_adapter_is_refused_by_name_and_the_deployment_answers_as_before(
    server: InferenceServer, client: AsyncClient
) -> None:
    good = server.add_revision("west", "r1", seed=30)
    live = await client.deployments.deploy(NAME, adapter_revision=good, timeout_s=300)
    before = await client.inference.chat(NAME, PROMPT, max_tokens=16)
    loaded = (await client.engine.get()).loaded_adapter_count
    expected = bad_revisions(server)
    found: dict[str, tuple[str, str]] = {}
    for name in expected:
        deploying = asyncio.create_task(client.deployments.deploy(NAME, adapter_revision=name))
        during = await client.inference.chat(NAME, PROMPT, max_tokens=16)
        with pytest.raises(client_errors.FailedPreconditionError) as caught:
            await deploying
        found[name] = (caught.value.metadata["stage"], caught.value.metadata["cause"])
        assert during.text == before.text
    assert found == expected
    assert (await client.deployments.get(NAME)).etag == live.etag
    assert (await client.engine.get()).loaded_adapter_count == loaded
    assert not list(server.folder.rglob("escaped.json"))


async def test_an_adapter_of_a_base_model_that_the_engine_does_not_hold_is_refused(
    server: InferenceServer, client: AsyncClient
) -> None:
    good = server.add_revision("west", "r1", seed=30)
    await client.deployments.deploy(NAME, adapter_revision=good, timeout_s=300)
    name = "tenants/west/adapters/elsewhere/revisions/r1"
    server.trainer.revisions[name] = adapter_pb2.AdapterRevision(
        name=name,
        sha256=server.trainer.revisions[good].sha256,
        base_model="baseModels/other",
        base_model_sha256="0" * 64,
    )
    with pytest.raises(client_errors.FailedPreconditionError) as caught:
        await client.deployments.deploy(NAME, adapter_revision=name)
    assert caught.value.reason == "ENGINE_HOLDS_OTHER_BASE_MODEL"
