"""What every client tries. A client's script defines the checks that the client can do, and reports them as JSON.

`models`: ids. `chat`: a text. `stream`: the parts of the same text. `tool`: name and arguments of a forced call.
`structured`: an object. `errors`: the status of the client's error for a wrong key, an unknown model and a prompt that
is too long. `abort`: leaves a long answer after its first part; the caller looks whether the server stops.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

URL, KEY, MODEL = (os.environ[f"LUTHIER_{name}"] for name in ("URL", "KEY", "MODEL"))
PROMPT = "Name a city."
STORY = "Write a long story about the sea."
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
STORY_MESSAGES: Any = [{"role": "user", "content": STORY}]
LONG: Any = [{"role": "user", "content": "word " * 5000}]
MAX_TOKENS, MANY_TOKENS = 12, 400
WRONG_KEY, UNKNOWN_MODEL = "wrong", "nobody"
BOOKING = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "nights": {"enum": [1, 2, 3]}},
    "required": ["city", "nights"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "book", "description": "Books a room.", "parameters": BOOKING}}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "booking", "schema": BOOKING}}


def status_of(call: Callable[[], Any]) -> int | None:
    """The HTTP status of the error that the call raises, whatever the client wraps it in; None: no error."""
    try:
        call()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(status := getattr(cause, "status_code", None), int):
                return status
            cause = cause.__cause__ or cause.__context__
        raise
    return None


def report(**checks: Callable[[], Any]) -> None:
    """Runs the checks and prints their results; a check that fails gives its traceback."""
    results: dict[str, Any] = {}
    for name, check in checks.items():
        try:
            results[name] = {"result": check()}
        except Exception:
            results[name] = {"failure": traceback.format_exc()[-2000:]}
    print(json.dumps(results))
