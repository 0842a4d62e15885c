"""A base model's chat template, completed by the roles that it lacks, and conversations in its form."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from luthierd.inference.domain.completion import Turn

PRELUDE = pathlib.Path(__file__).with_name("chat_prelude.j2")


def complete(tokenizer: Any) -> Any:
    """The tokenizer, whose chat template knows the roles `developer` and `tool`, calls, and definitions of tools.

    A template that names `tools` renders tools in its own way. One of several templates is left as it is.
    """
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str):
        has_tools = re.search(r"\btools\b", template) is not None
        has_developer = re.search(r"['\"]developer['\"]", template) is not None
        if not (has_tools and has_developer):
            known = {"luthier_tools": has_tools, "luthier_developer": has_developer}
            settings = "".join(f"{{%- set {name} = {str(value).lower()} -%}}" for name, value in known.items())
            tokenizer.chat_template = settings + PRELUDE.read_text().rstrip("\n") + template
    return tokenizer


def template_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """A conversation as chat templates expect it: arguments of calls are objects, and what is empty is left out."""
    return [
        {"role": turn.role, "content": turn.content}
        | ({"name": turn.name} if turn.name else {})
        | ({"tool_call_id": turn.tool_call_id} if turn.tool_call_id else {})
        | ({"tool_calls": [_call(*call) for call in turn.tool_calls]} if turn.tool_calls else {})
        for turn in turns
    ]


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.loads(arguments)}}
