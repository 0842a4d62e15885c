"""The engine on transformers and PEFT, with the tiny model: who answers, in which company, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator

import pytest
import torch
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Sampling, Structure, Turn
from luthierd.inference.domain.errors import (
    AdapterInvalidError,
    EngineDiedError,
    EngineStartError,
    StructureUnsupportedError,
)
from luthierd.inference.engine.engine import EngineAdapter, EngineDelta, EngineRequest
from luthierd.inference.engine.transformers_decoding import TokenText, choose
from luthierd.inference.engine.transformers_engine import TransformersEngine, start_transformers
from peft import PeftModel
from support import tiny_model
from transformers import AutoModelForCausalLM

CONFIG = InferenceConfig(dtype="float32", max_num_seqs=4, spare_batch=0, max_lora_rank=64)
QUESTION = (Turn("user", "who are you?"),)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The base model's folder."""
    return tiny_model.write_base_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Adapters of several ranks, some for a part of the modules only."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        tiny_model.write_adapter(folder / "a", seed=1),
        tiny_model.write_adapter(folder / "b", seed=2, rank=64, modules=("q_proj", "down_proj")),
        tiny_model.write_adapter(folder / "c", seed=3, rank=4, modules=("v_proj", "o_proj")),
    ]


@pytest.fixture
async def engine(base: pathlib.Path) -> AsyncIterator[TransformersEngine]:
    """A running engine."""
    made = await start_transformers(base, CONFIG)
    yield made
    await made.close()


@pytest.fixture
async def adapters(engine: TransformersEngine, folders: list[pathlib.Path]) -> list[EngineAdapter]:
    """The adapters, loaded."""
    made = [EngineAdapter(f"g-{folder.name}.{number}", number, folder) for number, folder in enumerate(folders, 1)]
    for adapter in made:
        await engine.load_adapter(adapter)
    return made


def request(
    engine: TransformersEngine, adapter: EngineAdapter | None = None, *, question: str = "", **sampling: object
) -> EngineRequest:
    """A request of 12 greedy tokens unless told otherwise."""
    turns = (Turn("user", question),) if question else QUESTION
    return EngineRequest(
        request_id="r",
        prompt_ids=engine.render_chat(turns),
        adapter=adapter,
        cache_salt="s",
        sampling=dataclasses.replace(Sampling(max_tokens=12), **sampling),  # type: ignore[arg-type]
    )


async def deltas(engine: TransformersEngine, asked: EngineRequest) -> list[EngineDelta]:
    """All deltas."""
    return [delta async for delta in engine.generate(asked)]


async def text(engine: TransformersEngine, asked: EngineRequest) -> str:
    """The whole answer."""
    return "".join(delta.text for delta in await deltas(engine, asked))


async def test_base_and_adapters_answer_together_as_they_do_alone(
    engine: TransformersEngine, adapters: list[EngineAdapter]
) -> None:
    asked = [
        request(engine, adapter, question=question)
        for adapter in (None, *adapters)
        for question in ("who?", "a longer question")
    ]
    alone = [await text(engine, one) for one in asked]
    together = await asyncio.gather(*(text(engine, one) for one in asked))
    assert len(set(alone)) == len(alone)
    assert together == alone


async def test_it_answers_as_peft_does(
    engine: TransformersEngine, adapters: list[EngineAdapter], base: pathlib.Path
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        model = PeftModel.from_pretrained(plain, str(adapter.folder)).eval()
        prompt = engine.render_chat(QUESTION)
        with torch.inference_mode():
            made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
            logits = model(made).logits[0]
        completion = tuple(made[0, len(prompt) :].tolist())
        expected = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(1, made[0, len(prompt) :, None])[:, 0]
        got = await engine.score(prompt, completion, adapter)
        plain = model.unload()
        assert got == pytest.approx(expected.tolist(), abs=1e-4)
        asked = request(engine, adapter, top_logprob_count=0)
        assert completion == tuple(token.token_id for delta in await deltas(engine, asked) for token in delta.logprobs)


async def test_an_unloaded_adapter_leaves_base_and_others_as_they_were(
    engine: TransformersEngine, adapters: list[EngineAdapter], folders: list[pathlib.Path]
) -> None:
    before = [await text(engine, request(engine, adapter)) for adapter in (None, adapters[1])]
    await engine.unload_adapter(adapters[0])
    await engine.load_adapter(again := EngineAdapter("g-a.9", 9, folders[0]))
    assert [await text(engine, request(engine, adapter)) for adapter in (None, adapters[1])] == before
    assert await text(engine, request(engine, again)) not in before
    for adapter in (*adapters[1:], again):
        await engine.unload_adapter(adapter)
    assert await text(engine, request(engine)) == before[0]


async def test_a_seed_repeats_a_draw_and_another_one_does_not(engine: TransformersEngine) -> None:
    drawn = [
        await text(engine, request(engine, temperature=1.5, seed=seed, max_tokens=20, top_p=0.95)) for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_several_choices_come_mixed_each_with_its_own_draw_and_end(engine: TransformersEngine) -> None:
    made = await deltas(engine, request(engine, temperature=1.5, seed=7, max_tokens=6, choice_count=3))
    texts = ["".join(delta.text for delta in made if delta.choice == choice) for choice in range(3)]
    assert len(set(texts)) == 3
    assert texts[0] == await text(engine, request(engine, temperature=1.5, seed=7, max_tokens=6))
    assert sorted(delta.choice for delta in made if delta.finish_reason) == [0, 1, 2]


async def test_log_probabilities_are_those_that_scoring_gives_with_the_likeliest_first(
    engine: TransformersEngine, adapters: list[EngineAdapter]
) -> None:
    asked = request(engine, adapters[0], top_logprob_count=3)
    tokens = [token for delta in await deltas(engine, asked) for token in delta.logprobs]
    scored = await engine.score(asked.prompt_ids, tuple(token.token_id for token in tokens), adapters[0])
    assert [token.logprob for token in tokens] == pytest.approx(scored, abs=1e-4)
    for token in tokens:
        assert token.alternatives[0].token_id == token.token_id  # greedy
        assert [one.logprob for one in token.alternatives] == sorted(
            (one.logprob for one in token.alternatives), reverse=True
        )


async def test_what_it_cannot_do_is_refused_by_name(engine: TransformersEngine) -> None:
    with pytest.raises(StructureUnsupportedError, match=r"sampling\.regex"):
        await engine.check_structure(Structure(kind=Structure.REGEX, text="a+"), tenant="acme")


async def test_a_stop_text_ends_the_answer_before_it_and_is_never_sent(engine: TransformersEngine) -> None:
    whole = await text(engine, request(engine, max_tokens=30))
    stop = whole[8:11]
    made = await deltas(engine, request(engine, max_tokens=30, stop=(stop, "never said")))
    assert "".join(delta.text for delta in made) == whole[: whole.index(stop)]
    assert (made[-1].finish_reason, len(made) < 30) == ("stop", True)


async def test_an_answer_has_a_piece_for_each_token_and_ends_for_its_length(engine: TransformersEngine) -> None:
    made = await deltas(engine, request(engine, max_tokens=5))
    assert [delta.token_count for delta in made] == [1] * 5
    assert [delta.finish_reason for delta in made] == ["", "", "", "", "length"]


async def test_a_cancelled_answer_makes_room_for_one_that_waits(engine: TransformersEngine) -> None:
    endless = [engine.generate(request(engine, max_tokens=10_000_000)) for _ in range(CONFIG.max_num_seqs)]
    for stream in endless:
        await anext(stream)
    waiting = asyncio.create_task(text(engine, request(engine)))
    await endless[0].aclose()
    assert await waiting
    for stream in endless[1:]:
        await stream.aclose()


async def test_an_embedding_has_length_one_and_depends_on_the_adapter(
    engine: TransformersEngine, adapters: list[EngineAdapter]
) -> None:
    ids = engine.tokenize("some text")
    (plain,), (tuned, _) = await engine.embed([ids], None), await engine.embed([ids, ids[:2]], adapters[0])
    assert len(plain) == tiny_model.HIDDEN
    assert sum(x * x for x in plain) == pytest.approx(1, abs=1e-5)
    assert plain != pytest.approx(tuned, abs=1e-3)


async def test_an_adapter_of_another_shape_or_with_other_tensors_is_refused_and_changes_nothing(
    engine: TransformersEngine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await text(engine, request(engine))
    monkeypatch.setitem(tiny_model.SIZES, "q_proj", (64, 64))
    wide = tiny_model.write_adapter(tmp_path / "wide", seed=1)
    lost = tiny_model.write_adapter(tmp_path / "lost", seed=1, modules=("v_proj",))
    config = lost / "adapter_config.json"
    config.write_text(config.read_text().replace('["v_proj"]', '["v_proj", "k_proj"]'))
    pickled = tiny_model.write_adapter(tmp_path / "pickled", seed=1)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    for number, folder in enumerate((wide, lost, pickled), 1):
        with pytest.raises(AdapterInvalidError):
            await engine.load_adapter(EngineAdapter(folder.name, number, folder))
    assert await text(engine, request(engine)) == before


async def test_an_error_in_the_thread_fails_what_runs_and_is_the_engines_death(engine: TransformersEngine) -> None:
    stream = engine.generate(request(engine, EngineAdapter("never loaded", 77, pathlib.Path()), max_tokens=1000))
    with pytest.raises(EngineDiedError):
        await anext(stream)
    await engine.wait_dead()
    with pytest.raises(EngineDiedError):
        await engine.score((1,), (2,), None)


async def test_a_folder_without_a_model_does_not_start(tmp_path: pathlib.Path) -> None:
    with pytest.raises(EngineStartError):
        await start_transformers(tmp_path, CONFIG)


def test_text_comes_whole_characters_at_a_time(tmp_path: pathlib.Path) -> None:
    tokenizer = tiny_model.write_tokenizer(tmp_path)
    taken = TokenText(tokenizer, ())
    sent = [taken.add(token)[0] for token in tokenizer.encode("a€b")]
    assert sent == ["a", "", "", "€", "b"]


def test_top_p_draws_from_the_smallest_set_that_holds_it() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.4]))
    generator = torch.Generator().manual_seed(0)
    drawn = {choose(logits, Sampling(temperature=1.0, top_p=0.8), generator) for _ in range(200)}
    assert drawn == {1, 2}
    assert {choose(logits, Sampling(temperature=1.0, top_k=2), generator) for _ in range(200)} == {1, 2}
    assert {choose(logits, Sampling(temperature=1.0, top_p=0.49), generator) for _ in range(50)} == {1}
