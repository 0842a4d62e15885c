"""Configuration: read once, wrong settings named, secrets masked."""

from __future__ import annotations

import dataclasses
import pathlib
from dataclasses import dataclass

import pytest
from luthier.services import SERVICES
from luthierd.config import ConfigError, ServerConfig, describe, load_config


@dataclass(frozen=True, kw_only=True)
class TrainerLikeConfig(ServerConfig):
    """A service's own fields, of every type that fields have."""

    checkpoint_every_steps: int = 50
    warm_up: bool = False
    cache_folder: pathlib.Path | None = None
    hub_token: str = ""
    max_tokens: int = 7


def load(**environment: str) -> TrainerLikeConfig:
    return load_config(TrainerLikeConfig, "trainer", environment=environment)


def test_nothing_set_gives_the_defaults() -> None:
    assert load() == TrainerLikeConfig()


def test_a_setting_of_the_service_wins_over_that_of_all() -> None:
    assert load(LUTHIER_GRACE_S="1", LUTHIER_TRAINER_GRACE_S="2.5").grace_s == 2.5
    assert load(LUTHIER_GRACE_S="1", LUTHIER_INFERENCE_GRACE_S="2").grace_s == 1.0


def test_every_type_of_field_is_read() -> None:
    config = load(
        LUTHIER_TRAINER_CHECKPOINT_EVERY_STEPS="10",
        LUTHIER_TRAINER_WARM_UP="yes",
        LUTHIER_TRAINER_CACHE_FOLDER="~/cache",
        LUTHIER_TRAINER_HOST="localhost",
        LUTHIER_HOME="relative",
    )
    assert (config.checkpoint_every_steps, config.warm_up, config.host) == (10, True, "localhost")
    assert config.cache_folder == pathlib.Path("~/cache").expanduser()
    assert config.home == pathlib.Path.cwd() / "relative"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("0", False), ("no", False)])
def test_a_switch_is_said_in_several_ways(text: str, value: bool) -> None:
    assert load(LUTHIER_TRAINER_WARM_UP=text).warm_up is value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LUTHIER_TRAINER_PORT", "http"),
        ("LUTHIER_GRACE_S", "ten"),
        ("LUTHIER_TRAINER_WARM_UP", "perhaps"),
        ("LUTHIER_TRAINER_CHECKPOINT_EVERY_STEPS", "1.5"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}='{text}'") as caught:
        load(**{variable: text})
    assert caught.value.metadata == {"variable": variable, "value": text}


def test_an_unknown_setting_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"LUTHIER_TRAINER_WORKER_COUNT\?") as caught:
        load(LUTHIER_TRAINER_WORKERS_COUNT="2")
    assert caught.value.metadata == {"variable": "LUTHIER_TRAINER_WORKERS_COUNT"}


def test_an_unknown_setting_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"is not a setting of trainer$"):
        load(LUTHIER_TRAINER_XYZZY="2")


def test_settings_of_others_are_none_of_our_business() -> None:
    load(LUTHIER_PROFILE="x", LUTHIER_INFERENCE_XYZZY="2", PATH="/bin")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_find_its_own_address_among_those_of_all(service: str) -> None:
    addresses = {f"LUTHIER_{name.upper()}_ADDRESS": f"{name}:1" for name in SERVICES}
    config = load_config(ServerConfig, service, environment=addresses)
    assert config.addresses == {name: f"{name}:1" for name in SERVICES}


def test_the_keys_lie_in_the_home_folder_unless_it_is_said(tmp_path: pathlib.Path) -> None:
    config = ServerConfig(home=tmp_path)
    assert (config.verify_key, config.signing_key) == (tmp_path / "keys/public.pem", tmp_path / "keys/private.pem")
    said = ServerConfig(verify_key_path=tmp_path, signing_key_path=tmp_path)
    assert (said.verify_key, said.signing_key) == (tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+asyncpg://user:hunter2@db:5432/x", "postgresql+asyncpg://***@db:5432/x"),
        ("postgresql+asyncpg://user:p@ss@db/x", "postgresql+asyncpg://***@db/x"),
        (
            "postgresql+asyncpg:///x?host=/run&password=hunter2&a=1",
            "postgresql+asyncpg:///x?host=/run&password=***&a=1",
        ),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite:///x.db"),
        ("", ""),
    ],
)
def test_a_password_in_a_url_is_masked(url: str, shown: str) -> None:
    assert describe(ServerConfig(database_url=url))["database_url"] == shown


def test_a_secret_field_is_masked_and_others_are_not() -> None:
    shown = describe(TrainerLikeConfig(hub_token="hunter2"))
    assert (shown["hub_token"], shown["max_tokens"]) == ("***", "7")
    assert shown.keys() == {field.name for field in dataclasses.fields(TrainerLikeConfig)}


def test_an_empty_secret_is_shown_as_empty() -> None:
    assert describe(TrainerLikeConfig())["hub_token"] == ""
