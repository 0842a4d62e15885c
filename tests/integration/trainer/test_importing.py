"""Imports of PEFT's folders: what comes out computes what PEFT computes; what cannot be served is refused by name."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from luthierd.jobs.worker import JobCancelled
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import checkout, put_folder
from luthierd.trainer.base_model_files import inspect
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.adapter_import import (
    AdapterChangesBaseError,
    AdapterImportTask,
    AdapterInvalidError,
    AdapterModuleUnknownError,
    AdapterNotFiniteError,
    AdapterRankTooLargeError,
    AdapterUnsupportedError,
)
from luthierd.trainer.importing import ImportedAdapter, import_adapter
from peft import IA3Config, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.peft_folders import VARIETIES, change_config, peft_logits, write_peft_folder
from support.tiny_model import write_base_model
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = torch.arange(1, 61)[None]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Importer:
    """Imports folders in the test's process."""

    def __init__(self, home: pathlib.Path, base: pathlib.Path) -> None:
        self.base, self.blobs = base, BlobStore(f"file://{home / 'blobs'}")
        self.info = inspect(base, self.blobs)
        self.config = TrainerConfig(home=home)
        self.steps: list[str] = []
        with torch.no_grad():
            self.base_logits = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(TOKENS).logits

    def run(self, folder: pathlib.Path, *, begin: Callable[[str], None] | None = None) -> ImportedAdapter:
        """What the worker does."""
        files = {path.name: self.blobs.put_file(path).sha256 for path in folder.iterdir() if path.is_file()}
        task = AdapterImportTask(
            adapter="tenants/acme/adapters/a",
            base_model="baseModels/tiny",
            base_model_info=self.info,
            files=files,
            source_sha256=put_folder(self.blobs, folder).sha256,
            subject="tester",
        )
        name = "tenants/acme/adapterImports/i"
        return import_adapter(task, name=name, blobs=self.blobs, config=self.config, begin=begin or self.steps.append)

    def files(self, made: ImportedAdapter, folder: pathlib.Path) -> pathlib.Path:
        """The files of the revision."""
        checkout(self.blobs, made.sha256, folder)
        return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is too small for several: they would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory, tiny_llama: pathlib.Path) -> Importer:
    return Importer(tmp_path_factory.mktemp("importer"), tiny_llama)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_llama: pathlib.Path) -> pathlib.Path:
    """An adapter that can be imported."""
    return write_peft_folder(tiny_llama, tmp_path_factory.mktemp("plain") / "adapter")


@pytest.fixture
def folder(plain: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of it for a test to change."""
    return pathlib.Path(shutil.copytree(plain, tmp_path / "adapter"))


@pytest.mark.parametrize("variety", VARIETIES)
def test_an_imported_adapter_computes_what_peft_computes(
    importer: Importer, tmp_path: pathlib.Path, variety: str
) -> None:
    source = write_peft_folder(importer.base, tmp_path / "source", **VARIETIES[variety])
    ours = importer.files(importer.run(source), tmp_path / "ours")
    rows = json.loads((ours / "reference.json").read_text())["rows"]
    assert len(rows) == 3
    reference = torch.tensor([rows[0]["prompt_ids"] + rows[0]["completion_ids"]])
    expected, of_reference = peft_logits(importer.base, source, TOKENS, reference)
    (found,) = peft_logits(importer.base, ours, TOKENS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, importer.base_logits, atol=1e-2)  # the adapter has an effect at all
    logprobs = torch.log_softmax(of_reference[0, len(rows[0]["prompt_ids"]) - 1 : -1], -1)
    chosen = logprobs.gather(1, torch.tensor(rows[0]["completion_ids"])[:, None])[:, 0]
    assert chosen.tolist() == pytest.approx(rows[0]["tuned_logprobs"], abs=1e-4)
    assert set(load_file(ours / WEIGHTS)) == {name for name in load_file(source / WEIGHTS) if ".lora_" in name}


@pytest.mark.parametrize("variety", ["plain", "rsLoRA by patterns", "some layers", "bfloat16"])
def test_an_import_of_what_was_imported_changes_nothing(
    importer: Importer, tmp_path: pathlib.Path, variety: str
) -> None:
    source = write_peft_folder(importer.base, tmp_path / "source", **VARIETIES[variety])
    once = importer.files(importer.run(source), tmp_path / "once")
    twice = importer.files(importer.run(once), tmp_path / "twice")
    for name in (WEIGHTS, CONFIG, "reference.json"):
        assert (once / name).read_bytes() == (twice / name).read_bytes()
    source_sha256 = json.loads((twice / "lineage.json").read_text())["source"]["sha256"]
    assert source_sha256 == put_folder(importer.blobs, once).sha256


def test_what_is_the_base_models_own_is_left_out_with_a_word(importer: Importer, tmp_path: pathlib.Path) -> None:
    made = importer.run(write_peft_folder(importer.base, tmp_path / "a", modules_to_save=["lm_head"]))
    assert made.notes == ("left out lm_head.weight: the same as in the base model",)
    lineage = json.loads((importer.files(made, tmp_path / "ours") / "lineage.json").read_text())
    assert (lineage["kind"], lineage["imported_by"]) == ("imported", "tester")
    assert "left out lm_head.weight" in (tmp_path / "ours/README.md").read_text()


def test_another_chat_template_and_an_adapter_without_effect_are_said(importer: Importer, folder: pathlib.Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor * (".lora_B" not in name) for name, tensor in tensors.items()}, folder / WEIGHTS)
    first, second = importer.run(folder).notes
    assert "chat template differs" in first
    assert "no deployment will accept it" in second


def test_a_scale_beyond_all_numbers_is_refused(importer: Importer, folder: pathlib.Path) -> None:
    change_config(folder, lora_alpha=1e308)
    with pytest.raises(AdapterNotFiniteError, match="lora_alpha"):
        importer.run(folder)


def test_an_import_stops_between_two_steps(importer: Importer, plain: pathlib.Path) -> None:
    begun: list[str] = []

    def begin(step: str) -> None:
        begun.append(step)
        if len(begun) == 3:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        importer.run(plain, begin=begin)
    assert begun[-1] == "loading the base model"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora.*merge_and_unload"),
        ({"bias": "all"}, "bias=all.*bias='none'"),
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4.*path_initial_model"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights=loftq"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"invented": "x"}, "invented=x, which PEFT .* does not know"),
        ({"peft_type": "IA3"}, "kind IA3.*merge_and_unload"),
        ({"peft_type": "PREFIX_TUNING"}, "kind PREFIX_TUNING.*train a LoRA adapter instead"),
        ({"peft_type": "lora"}, "kind lora"),
        ({"peft_type": None}, "kind None"),
        ({"task_type": "SEQ_CLS"}, "task SEQ_CLS"),
        ({"target_modules": ["self_attn"]}, "self_attn, a LlamaAttention"),
        ({"target_modules": ["v_proj", "lm_head"]}, "lm_head, which shares its matrix with the embeddings"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do(
    importer: Importer, folder: pathlib.Path, changes: dict[str, Any], words: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(AdapterUnsupportedError, match=words):
        importer.run(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "r: a rank must be from 1"),
        ({"r": True}, "Expected `int`, got `bool`"),
        ({"r": "4"}, "Expected `int`, got `str`"),
        ({"r": 10**30}, "rank must be|out of range|Integer"),
        ({"lora_alpha": "8"}, "Expected `float`, got `str`"),
        ({"lora_dropout": 7}, "lora_dropout: it must be from 0 to 1"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern: a rank"),
        ({"rank_pattern": ["q_proj"]}, "Expected `object`"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern: '.*' is not a pattern"),
        ({"target_modules": "("}, "target_modules: '\\(' is not a pattern"),
        ({"target_modules": "(.+)" * 10 + r"\8\7\6[A-Z]"}, "target_modules: .* takes too long"),
        ({"target_modules": "q" * 10_001}, "patterns: at most"),
        ({"target_modules": ["c_attn"]}, "names no module of the base model"),
        ({"target_modules": ["q_proj"]}, "does not name"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "6 tensors are missing"),
        ({"target_modules": r".*q_proj", "layers_to_transform": [0]}, "layers_to_transform: PEFT does not combine"),
        ({"r": 5}, "the rank 5"),
    ],
)
def test_a_config_that_contradicts_itself_or_the_tensors_is_refused(
    importer: Importer, folder: pathlib.Path, changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthierd.trainer.blocks.peft_config.PATTERNS_LIMIT_S", 0.2)
    change_config(folder, **changes)
    with pytest.raises(AdapterInvalidError, match=words):
        importer.run(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b'{"peft_type": "LORA", "r": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000],
)
def test_a_config_that_is_no_json_object_is_refused(importer: Importer, folder: pathlib.Path, content: bytes) -> None:
    (folder / CONFIG).write_bytes(content)
    with pytest.raises(AdapterInvalidError, match=r"adapter_config\.json"):
        importer.run(folder)


@pytest.mark.parametrize("kind", ["IA3", "PROMPT_TUNING"])
def test_a_folder_of_another_kind_is_refused_by_its_kind(importer: Importer, tmp_path: pathlib.Path, kind: str) -> None:
    config = {
        "IA3": IA3Config(task_type="CAUSAL_LM"),
        "PROMPT_TUNING": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }[kind]
    get_peft_model(AutoModelForCausalLM.from_pretrained(importer.base), config).save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterUnsupportedError, match=kind):
        importer.run(tmp_path / "other")


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def with_tensor(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: tensors | {name: tensor}


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], type[Exception]]] = {
    "missing": (lambda tensors: {n: t for n, t in tensors.items() if n != FIRST}, AdapterInvalidError),
    "nan": (with_tensor(FIRST, torch.full((4, 128), torch.nan)), AdapterNotFiniteError),
    "infinite": (with_tensor(FIRST, torch.full((4, 128), -torch.inf)), AdapterNotFiniteError),
    "other width": (with_tensor(FIRST, torch.zeros(4, 64)), AdapterModuleUnknownError),
    "other rank": (with_tensor(FIRST, torch.zeros(8, 128)), AdapterInvalidError),
    "three axes": (with_tensor(FIRST, torch.zeros(1, 4, 128)), AdapterModuleUnknownError),
    "integers": (with_tensor(FIRST, torch.zeros(4, 128, dtype=torch.int32)), AdapterInvalidError),
    "float64": (with_tensor(FIRST, torch.zeros(4, 128, dtype=torch.float64)), AdapterInvalidError),
    "other module": (with_tensor(FIRST.replace(".0.", ".9."), torch.zeros(4, 128)), AdapterModuleUnknownError),
    "no prefix": (renamed("base_model.model.", ""), AdapterInvalidError),
    "the adapter's name": (renamed(".weight", ".default.weight"), AdapterInvalidError),
    "magnitudes": (with_tensor(FIRST.replace("A.weight", "magnitude_vector"), torch.ones(128)), AdapterInvalidError),
    "a trained head": (with_tensor("base_model.model.lm_head.weight", torch.ones(258, 128)), AdapterChangesBaseError),
    "more tokens": (
        with_tensor("base_model.model.model.embed_tokens.weight", torch.ones(300, 128)),
        AdapterChangesBaseError,
    ),
    "a bias": (
        with_tensor(FIRST.replace("lora_A.weight", "base_layer.bias"), torch.ones(128)),
        AdapterModuleUnknownError,
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_wrong_tensors_are_refused(importer: Importer, folder: pathlib.Path, how: str) -> None:
    change, error = BROKEN[how]
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    with pytest.raises(error):
        importer.run(folder)


def test_a_cut_file_is_refused(importer: Importer, folder: pathlib.Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(AdapterInvalidError, match="cut off"):
        importer.run(folder)
    (folder / WEIGHTS).write_bytes(b"\xff" * 100)
    with pytest.raises(AdapterInvalidError, match="cut off"):
        importer.run(folder)


def test_an_adapter_of_a_model_of_another_size_is_refused(importer: Importer, tmp_path: pathlib.Path) -> None:
    other = write_base_model(tmp_path / "other", seed=3)
    config = json.loads((other / "config.json").read_text()) | {"hidden_size": 64, "num_hidden_layers": 2}
    (other / "config.json").write_text(json.dumps(config))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(other)).save_pretrained(other)
    with pytest.raises(AdapterInvalidError, match=r"\d tensors are missing"):
        importer.run(write_peft_folder(other, tmp_path / "a"))


def test_a_rank_that_the_engine_does_not_take_is_refused(importer: Importer, tmp_path: pathlib.Path) -> None:
    source = write_peft_folder(importer.base, tmp_path / "a", rank_pattern={r"2\.self_attn\.q_proj": 40})
    with pytest.raises(AdapterRankTooLargeError, match="rank 40 exceeds the engine's limit of 32"):
        importer.run(source)
