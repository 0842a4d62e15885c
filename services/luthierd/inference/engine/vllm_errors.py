"""vLLM's errors as ours. It raises some, returns others, and puts others into a stream; all end here."""

from __future__ import annotations

import logging
import re
from typing import Any

from luthierd.errors import FailedPreconditionError, InvalidArgumentError, LuthierError, UnavailableError
from luthierd.inference.domain.errors import EngineDiedError, PromptTooLongError
from luthierd.inference.engine.engine import OpenAICall

log = logging.getLogger(__name__)

MAX_MESSAGE = 500
PROMPT_FIELDS = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/tokenize": "prompt"}
_TOO_LONG = re.compile(r"context length|longer than the maximum model length|exceeds the max_model_len")
_TOKENS = re.compile(r"(\d+) input tokens|length (\d+)|\((\d+)\)")
_ADDITIONS = re.compile(r" \((?:parameter|value)=.*\)$", re.DOTALL)


class RequestUnsupportedError(FailedPreconditionError):
    """The engine's OpenAI serving cannot do what a request asks for."""

    reason = "REQUEST_UNSUPPORTED"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the engine does not support this: {detail}", metadata={"detail": detail})


class Translation:
    """The errors of one call. `is_started`: the engine has begun to compute it."""

    def __init__(self, call: OpenAICall, llm: Any, window: int) -> None:
        self._call, self._llm, self._window = call, llm, window
        self.is_started = False

    def of_exception(self, error: Exception) -> Exception:
        """The LuthierError for an exception; `error` itself if it is a bug of the server.

        Before the engine has started, whatever its application raises is due to the request: vLLM's checks run into
        AttributeError, KeyError or RecursionError on values that they do not expect.
        """
        from pydantic import ValidationError
        from vllm.exceptions import GracefulHTTPError, RetryableRequestError, VLLMClientError, VLLMServerError

        if self._llm.errored:
            return EngineDiedError()
        if isinstance(error, LuthierError):
            return error
        if isinstance(error, ValidationError):
            return _of_pydantic(error, self._call.body)
        if isinstance(error, (GracefulHTTPError, RetryableRequestError)):
            return UnavailableError(f"the engine cannot take the request now: {error}")
        if isinstance(error, NotImplementedError):
            return RequestUnsupportedError(str(error) or "the engine cannot do this")
        if isinstance(error, (VLLMClientError, ValueError, TypeError, OverflowError)):
            return self.of_message(str(error), field=getattr(error, "parameter", None))
        if self.is_started or isinstance(error, VLLMServerError):
            return error
        log.warning("a request could not be read", exc_info=error, extra={"route": self._call.route})
        return self.of_message(f"the engine cannot read it ({type(error).__name__})")

    def of_response(self, status: int, message: str, field: str | None) -> Exception:
        """The same for an error that vLLM returns in its own form."""
        if self._llm.errored:
            return EngineDiedError()
        if status == 501:
            return RequestUnsupportedError(message)
        if status >= 500:
            return RuntimeError(message)
        return self.of_message(message, field=field)

    def of_message(self, message: str, *, field: str | None = None) -> LuthierError:
        """A refusal: the prompt is too long, or a field is invalid."""
        message = _ADDITIONS.sub("", message.strip())
        prompt_field = PROMPT_FIELDS.get(self._call.route, "prompt")
        if _TOO_LONG.search(message):
            found = _TOKENS.search(message)
            count = next((int(one) for one in found.groups() if one), 0) if found else 0
            return PromptTooLongError(max(count, self._window), self._window, field=prompt_field)
        return InvalidArgumentError.of_field(field or "body", message[:MAX_MESSAGE])


def _of_pydantic(error: Any, body: Any) -> InvalidArgumentError:
    """The first problem. Its location also names the types of a union, which are no fields."""
    first = error.errors(include_url=False, include_input=False)[0]
    path, place = "", body
    for step in first["loc"]:
        if isinstance(place, list) and isinstance(step, int) and step < len(place):
            path, place = f"{path}[{step}]", place[step]
        elif isinstance(place, dict) and isinstance(step, str) and (step in place or step == first["loc"][-1]):
            path, place = f"{path}.{step}".lstrip("."), place.get(step)
    message = str(first["msg"])
    return InvalidArgumentError.of_field(path or "body", message[:1].lower() + message[1:MAX_MESSAGE])
