"""Endpoints that the operator configures, and one question to them."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from luthierd.config import ConfigError
from luthierd.errors import LuthierError
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint
from luthierd.evaluator.models.endpoints import Endpoint, EndpointNotFoundError, load_endpoints
from support.judge_server import CUT_BODY, HANG_UP, SILENCE, judge_server

ENTRY = "endpoints:\n  judge:\n    url: http://127.0.0.1:8000/v1/\n    model: tiny\n"
QUESTION = [Message("user", "Is it so?")]


def written(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "endpoints.yaml"
    path.write_text(text)
    return path


def test_an_entry_takes_its_key_from_a_file_or_a_variable_and_never_shows_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")
    text = ENTRY + f"    key_file: {tmp_path / 'key'}\n  other:\n    url: https://a.b/v1\n    model: m\n"
    found = load_endpoints(written(tmp_path, text + "    key_variable: OTHER_KEY\n"), {"OTHER_KEY": "sk-variable"})
    assert (found.by_name["judge"].key, found.by_name["other"].key) == ("sk-file", "sk-variable")
    assert found.by_name["judge"].url == "http://127.0.0.1:8000/v1"
    assert "sk-" not in repr(found)


def test_without_a_file_there_are_none() -> None:
    assert load_endpoints(None, {}).by_name == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("endpoints: [a]", "no mapping"),
        ("{", "not YAML"),
        (ENTRY.replace("judge:", "Judge:"), "a name is"),
        (ENTRY.replace("http://", "http://user:sesame@"), "without user"),
        (ENTRY + "    key: sk-sesame\n", "'key' is not a setting; known are"),
        (ENTRY + "    key_variable: NO_SUCH_VARIABLE\n", "NO_SUCH_VARIABLE"),
        (ENTRY + "    concurrency: 0\n", "from 1 to 256"),
        (ENTRY + "    tenants: acme\n", "list of ids"),
        (ENTRY.replace("    model: tiny\n", ""), "`model` is missing"),
    ],
)
def test_a_wrong_entry_is_named_and_no_secret_is_repeated(tmp_path: pathlib.Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load_endpoints(written(tmp_path, text), {})
    assert "sesame" not in str(caught.value)


def test_another_tenants_endpoint_looks_like_none_at_all(tmp_path: pathlib.Path) -> None:
    found = load_endpoints(written(tmp_path, ENTRY + "    tenants: [acme]\n"), {})
    assert found.find("judge", tenant="acme").model == "tiny"
    with pytest.raises(EndpointNotFoundError) as hidden:
        found.find("judge", tenant="globex")
    with pytest.raises(EndpointNotFoundError) as unknown:
        found.find("nobody", tenant="globex")
    assert str(hidden.value).replace("judge", "nobody") == str(unknown.value)


async def asked(script: Any, *, timeout_s: float = 5.0) -> Any:
    """What one question gives: the completion, or the error."""
    with judge_server(script) as house:
        client = ChatEndpoint(Endpoint(name="judge", url=house.url, model="tiny", key="sk-1", timeout_s=timeout_s))
        try:
            return await client.chat(QUESTION, max_tokens=8, temperature=0.0)
        except LuthierError as error:
            return error
        finally:
            await client.close()


async def test_an_answer_carries_text_tokens_and_finish_reason() -> None:
    found = await asked(lambda body: f"{body['model']} {body['temperature']} {body['messages'][0]['content']}")
    assert found.text == "tiny 0.0 Is it so?"
    assert (found.prompt_tokens, found.completion_tokens, found.finish_reason) == (10, 5, "stop")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (429, "ENDPOINT_BUSY"),
        (503, "ENDPOINT_AWAY"),
        (401, "ENDPOINT_REFUSED"),
        (404, "ENDPOINT_REFUSED"),
        (400, "ENDPOINT_REJECTED"),
        (CUT_BODY, "ENDPOINT_UNREADABLE"),
        (HANG_UP, "ENDPOINT_AWAY"),
    ],
)
async def test_what_goes_wrong_has_a_name_each(said: Any, reason: str) -> None:
    error = await asked(lambda body: said)
    assert error.reason == reason
    assert "sk-1" not in f"{error}{error.metadata}"


async def test_a_silent_server_is_slow_after_its_time() -> None:
    assert (await asked(lambda body: SILENCE, timeout_s=0.2)).reason == "ENDPOINT_SLOW"


async def test_a_server_that_is_not_there_is_away() -> None:
    with judge_server(lambda body: "") as house:
        url = house.url
    client = ChatEndpoint(Endpoint(name="judge", url=url, model="tiny"))
    with pytest.raises(LuthierError) as caught:
        await client.chat(QUESTION, max_tokens=8)
    assert caught.value.reason == "ENDPOINT_AWAY"
    await client.close()
