"""OpenAI-compatible servers that the operator allows evaluations to call: as a judge, or as an arm under test.

Tenants name an entry and never give a URL or a key: nobody can make the evaluator call a server of their choice, and no
key is ever in a message, a job's payload, a log line or a report.

    endpoints:
      house-judge:
        url: https://models.example.org/v1
        model: qwen3-32b
        key_file: /run/secrets/models-key
        tenants: [acme, globex]
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from luthierd.config import ConfigError
from luthierd.errors import NotFoundError

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_FILE_BYTES = 1024 * 1024


class EndpointNotFoundError(NotFoundError):
    """The operator has configured no such endpoint for this tenant. Whether another tenant has one is not revealed."""

    reason = "ENDPOINT_NOT_FOUND"

    def __init__(self, name: str, allowed: Collection[str]) -> None:
        known = f"allowed here: {', '.join(sorted(allowed))}" if allowed else "none is allowed here"
        super().__init__(
            f"there is no endpoint {name!r} for this tenant; {known}. The operator adds one to the file of "
            "LUTHIER_EVALUATOR_ENDPOINTS_PATH",
            metadata={"endpoint": name},
        )


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One server. `url` is the address before `/chat/completions`."""

    name: str
    url: str
    model: str
    """The model that is asked for when a caller names none."""
    key: str = field(default="", repr=False)
    """Bearer token; empty: none is sent."""
    tenants: tuple[str, ...] = ()
    """Who may use it; empty: everyone."""
    timeout_s: float = 60.0
    """Seconds that one answer may take."""
    concurrency: int = 4
    """Requests in flight, of one evaluation."""
    prompt_price_per_million: float = 0.0
    """Price of a million tokens that it reads, in the unit of the other prices."""
    completion_price_per_million: float = 0.0
    """Price of a million tokens that it writes."""


@dataclass(frozen=True)
class Endpoints:
    """Every configured endpoint, by name."""

    by_name: Mapping[str, Endpoint] = field(default_factory=dict)

    def find(self, name: str, *, tenant: str) -> Endpoint:
        """EndpointNotFoundError for an unknown name, and for one that another tenant has for itself."""
        allowed = {known for known, one in self.by_name.items() if not one.tenants or tenant in one.tenants}
        if name not in allowed:
            raise EndpointNotFoundError(name, allowed)
        return self.by_name[name]


NO_ENDPOINTS = Endpoints()


def load_endpoints(path: pathlib.Path | None, environment: Mapping[str, str]) -> Endpoints:
    """The endpoints of a file; none without a file. ConfigError says which entry is wrong; it never holds a key."""
    if path is None:
        return Endpoints()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _wrong(path, f"it is larger than {MAX_FILE_BYTES} bytes")
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise _wrong(path, f"it cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise _wrong(path, "it is not YAML") from None
    entries = document.get("endpoints") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise _wrong(path, "it has no mapping `endpoints`")
    return Endpoints({str(name): _endpoint(path, str(name), entry, environment) for name, entry in entries.items()})


_SETTINGS = {one.name for one in fields(Endpoint)} - {"name", "key"} | {"key_file", "key_variable"}
_NUMBERS = {
    "timeout_s": (1.0, 3600.0),
    "concurrency": (1, 256),
    "prompt_price_per_million": (0.0, 1e9),
    "completion_price_per_million": (0.0, 1e9),
}


def _endpoint(path: pathlib.Path, name: str, entry: Any, environment: Mapping[str, str]) -> Endpoint:
    where = f"endpoint {name!r}"
    if not NAME.fullmatch(name):
        raise _wrong(path, f"{where}: a name is {NAME.pattern}")
    if not isinstance(entry, dict):
        raise _wrong(path, f"{where} is not a mapping")
    for setting in entry:
        if setting not in _SETTINGS:
            near = difflib.get_close_matches(str(setting), _SETTINGS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(_SETTINGS))}"
            raise _wrong(path, f"{where}: {str(setting)[:40]!r} is not a setting; {hint}")
    url, model, tenants = entry.get("url"), entry.get("model"), entry.get("tenants", [])
    if not isinstance(url, str) or not re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", url):
        raise _wrong(path, f"{where}: `url` must be http(s)://HOST..., without user and password")
    if not isinstance(model, str) or not model:
        raise _wrong(path, f"{where}: `model` is missing")
    if not isinstance(tenants, list) or not all(isinstance(one, str) for one in tenants):
        raise _wrong(path, f"{where}: `tenants` must be a list of ids")
    for setting, (low, high) in _NUMBERS.items():
        value = entry.get(setting, low)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _wrong(path, f"{where}: `{setting}` must be a number from {low:g} to {high:g}")
    return Endpoint(
        name=name,
        url=url.rstrip("/"),
        model=model,
        key=_key(path, where, entry, environment),
        tenants=tuple(tenants),
        **{setting: entry[setting] for setting in _NUMBERS if setting in entry},
    )


def _key(path: pathlib.Path, where: str, entry: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    if "key_file" in entry and "key_variable" in entry:
        raise _wrong(path, f"{where}: give `key_file` or `key_variable`, not both")
    if "key_variable" in entry:
        variable = str(entry["key_variable"])
        if not environment.get(variable):
            raise _wrong(path, f"{where}: the environment has no {variable}")
        return environment[variable].strip()
    if "key_file" in entry:
        try:
            return pathlib.Path(str(entry["key_file"])).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise _wrong(path, f"{where}: `key_file` cannot be read") from None
    return ""


def _wrong(path: pathlib.Path, problem: str) -> ConfigError:
    return ConfigError(
        f"LUTHIER_EVALUATOR_ENDPOINTS_PATH={path}: {problem}",
        metadata={"variable": "LUTHIER_EVALUATOR_ENDPOINTS_PATH", "problem": problem},
    )
