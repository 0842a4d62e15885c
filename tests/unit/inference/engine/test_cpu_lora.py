"""The arithmetic of adapters in one batch, compiled and in torch, against a plain loop over rows and against PEFT."""

from __future__ import annotations

import pathlib

import pytest
import torch
from luthierd.inference.engine.vllm_cpu_lora import adapters as arithmetic
from luthierd.inference.engine.vllm_cpu_lora.adapters import Adapters
from luthierd.inference.engine.vllm_cpu_lora.kernel import load_kernel
from luthierd.inference.engine.vllm_cpu_lora.rows import BASE_SLOT, LONG, MAX_GROUP, RowSlots
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

SLOTS, RANK, INPUTS = 4, 8, 24


class Module:
    """One module's tensors as vLLM keeps them, with the weights that were put in."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.widths = widths
        self.a = tuple(torch.zeros(SLOTS, 1, RANK, INPUTS) for _ in widths)
        self.b = tuple(torch.zeros(SLOTS, 1, width, RANK) for width in widths)

    def put(self, slot: int, rank: int, *, seed: int, slices: tuple[int, ...] | None = None) -> None:
        """As vLLM's `set_lora`: zeros, then the weights, both in place."""
        generator = torch.Generator().manual_seed(seed)
        for index in range(len(self.widths)):
            self.a[index][slot] = 0
            self.b[index][slot] = 0
            if slices is None or index in slices:
                self.a[index][slot, 0, :rank].copy_(torch.randn(rank, INPUTS, generator=generator))
                self.b[index][slot, 0, :, :rank].copy_(torch.randn(self.widths[index], rank, generator=generator))

    def plain(self, y: Tensor, x: Tensor, slots: Tensor) -> Tensor:
        """Row by row, without any stacking."""
        expected = y.clone()
        for row, slot in enumerate(slots.tolist()):
            left = 0
            for a, b, width in zip(self.a, self.b, self.widths, strict=True):
                if slot != BASE_SLOT:
                    expected[row, left : left + width] += b[slot, 0] @ (a[slot, 0] @ x[row])
                left += width
        return expected


@pytest.fixture(params=["compiled", "torch"])
def adapters(request: pytest.FixtureRequest) -> Adapters:
    """Both ways to compute the same."""
    if request.param == "torch":
        return Adapters(None)
    if load_kernel() is None:
        pytest.skip("no C++ compiler")
    return Adapters(load_kernel())


@pytest.fixture
def module() -> Module:
    """q, k and v of one layer: an adapter of full rank, one of rank 3, one without k, and an empty slot."""
    made = Module((16, 8, 8))
    made.put(0, RANK, seed=1)
    made.put(1, 3, seed=2)
    made.put(2, 5, seed=3, slices=(0, 2))
    return made


def apply(adapters: Adapters, module: Module, slots: list[int], *, padding: int = 0) -> tuple[Tensor, Tensor]:
    """What the stacked product makes, and what it should."""
    count = len(slots) + padding
    generator = torch.Generator().manual_seed(count)
    x, y = torch.randn(count, INPUTS, generator=generator), torch.randn(count, sum(module.widths), generator=generator)
    indices = torch.tensor(slots)
    expected = module.plain(y, x, torch.cat([indices, torch.full((padding,), BASE_SLOT)]))
    adapters.add(y, x, a=module.a, b=module.b, rows=RowSlots(indices), widths=module.widths)
    return y, expected


@pytest.mark.parametrize(
    "slots",
    [
        [-1, 0, 1, 2, -1, 1],
        [0] * 5,
        [1],
        [-1, 2],
        [-1] * 4,
        [3, 0],
        [2, 2, 0, 0, 1, 1, -1, 3],
        [0, -1, *[1] * LONG, 2, *[2] * LONG, -1, 0],
        [0, 1] * (MAX_GROUP + 3),
    ],
    ids=[
        "mixed",
        "one",
        "single row",
        "beside base",
        "base only",
        "empty slot",
        "all",
        "a prompt and decoding",
        "more than a group",
    ],
)
def test_each_row_gets_its_own_adapter_and_base_rows_none(adapters: Adapters, module: Module, slots: list[int]) -> None:
    got, expected = apply(adapters, module, slots)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_rows_without_an_adapter_keep_their_values_bit_by_bit(adapters: Adapters, module: Module) -> None:
    x, y = torch.randn(3, INPUTS), torch.randn(3, sum(module.widths))
    before = y.clone()
    adapters.add(y, x, a=module.a, b=module.b, rows=RowSlots(torch.tensor([-1, 0, -1])), widths=module.widths)
    assert torch.equal(y[[0, 2]], before[[0, 2]])
    assert not torch.equal(y[1], before[1])


def test_a_slot_that_is_written_again_is_seen(adapters: Adapters, module: Module) -> None:
    apply(adapters, module, [0, 1, -1])
    module.put(1, RANK, seed=99)
    got, expected = apply(adapters, module, [0, 1, -1])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    module.put(1, 1, seed=100)
    got, expected = apply(adapters, module, [1, 1])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_adapters_may_join_a_batch_later(adapters: Adapters, module: Module) -> None:
    for slots in ([0, -1], [2, 0], [1, 2, 0, -1], [1, -1]):
        got, expected = apply(adapters, module, slots)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_padding_rows_are_left_alone(adapters: Adapters, module: Module) -> None:
    got, expected = apply(adapters, module, [0, -1, 1], padding=3)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_overflows_does_not_reach_the_rows_of_others(adapters: Adapters, module: Module) -> None:
    module.a[0][0, 0, 0] = 1e38  # finite, but its product is not
    x, y = torch.full((2, INPUTS), 10.0), torch.zeros(2, sum(module.widths))
    adapters.add(y, x, a=module.a, b=module.b, rows=RowSlots(torch.tensor([0, -1])), widths=module.widths)
    assert torch.equal(y[1], torch.zeros(sum(module.widths)))


def test_bfloat16_logits_over_float32_weights_are_added(adapters: Adapters, module: Module) -> None:
    x, y = torch.randn(2, INPUTS), torch.zeros(2, sum(module.widths), dtype=torch.bfloat16)
    expected = module.plain(y.float(), x, torch.tensor([0, -1]))
    adapters.add(y, x, a=module.a, b=module.b, rows=RowSlots(torch.tensor([0, -1])), widths=module.widths)
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-1)


def test_it_agrees_with_peft(adapters: Adapters) -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(INPUTS, 16, bias=False)), LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
    )
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(5, INPUTS)
    module = Module((16,))
    module.a[0][2, 0, :4].copy_(layer.lora_A["default"].weight.detach())
    module.b[0][2, 0, :, :4].copy_(layer.lora_B["default"].weight.detach() * layer.scaling["default"])
    y = layer.base_layer(x).detach().clone()
    adapters.add(y, x, a=module.a, b=module.b, rows=RowSlots(torch.tensor([2] * 5)), widths=(16,))
    torch.testing.assert_close(y, model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "inputs", "widths"), [(1, 7, (5,)), (16, 576, (576, 192, 192)), (64, 33, (70, 1))])
def test_shapes_that_no_vector_divides_are_right(
    adapters: Adapters, monkeypatch: pytest.MonkeyPatch, rank: int, inputs: int, widths: tuple[int, ...]
) -> None:
    monkeypatch.setitem(globals(), "RANK", rank)
    monkeypatch.setitem(globals(), "INPUTS", inputs)
    made = Module(widths)
    for slot in range(SLOTS):
        made.put(slot, rank, seed=slot)
    got, expected = apply(adapters, made, [0, 1, 2, 3, -1] * 5)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_bfloat16_is_computed_in_float32_and_rounded_once(adapters: Adapters, module: Module) -> None:
    made = Module(module.widths)
    made.a, made.b = (tuple(t.bfloat16() for t in tensors) for tensors in (module.a, module.b))
    x, y = torch.randn(6, INPUTS).bfloat16(), torch.zeros(6, sum(module.widths)).bfloat16()
    slots = torch.tensor([0, 1, 2, -1, 0, 1])
    made_float = Module(module.widths)
    made_float.a, made_float.b = (tuple(t.float() for t in tensors) for tensors in (made.a, made.b))
    expected = made_float.plain(y.float(), x.float(), slots)
    adapters.add(y, x, a=made.a, b=made.b, rows=RowSlots(slots), widths=made.widths)
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=1e-1)


def test_what_is_remembered_of_batches_is_bounded(
    adapters: Adapters, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "MAX_KNOWN_BATCHES", 3)
    for group_count in range(1, 6):
        y, expected = apply(adapters, module, [0, 1] * (MAX_GROUP * group_count))
        assert torch.allclose(y, expected, atol=1e-4)
        (known,) = adapters._modules.values()
        assert len(known.group_ranks) <= 3


def test_without_a_compiler_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert load_kernel.__wrapped__() is None


def test_a_compiler_that_fails_leaves_no_kernel_and_no_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert load_kernel.__wrapped__() is None
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
