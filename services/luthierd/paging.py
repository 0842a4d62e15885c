"""Pages of lists. Tokens are opaque, and valid only with the other arguments of the call."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from luthierd.errors import InvalidArgumentError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
BINDING_LENGTH = 16

_NUMBER = re.compile(r"[0-9]{1,9}")
"""Fits in any database's integer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Items of one page, and the token of the next page; empty at the end."""

    items: tuple[T, ...]
    next_page_token: str


@dataclass(frozen=True)
class PageRequest:
    """How many items, and after which key."""

    size: int
    after: str
    binding: str

    @property
    def limit(self) -> int:
        """Items to read: one more than the page, which tells whether there is a next one."""
        return self.size + 1

    @property
    def after_number(self) -> int:
        """The key, where keys are numbers; 0 on the first page. InvalidArgumentError for one that we never give."""
        if not self.after:
            return 0
        if not _NUMBER.fullmatch(self.after):
            raise _not_ours("it does not continue this list")
        return int(self.after)

    @classmethod
    def parse(cls, page_size: int, page_token: str, *arguments: str) -> PageRequest:
        """InvalidArgumentError for a negative size, or for a token of a call with other `arguments`."""
        if page_size < 0:
            raise InvalidArgumentError.of_field("page_size", f"{page_size} is negative; 0 asks for the default")
        binding = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:BINDING_LENGTH]
        after = ""
        if page_token:
            try:
                content = base64.urlsafe_b64decode(page_token.encode()).decode()
            except ValueError:
                content = ""
            after = content[BINDING_LENGTH:]
            if content[:BINDING_LENGTH] != binding or not after.isprintable():
                raise _not_ours("it is not a token of a call with the same arguments")
        return cls(min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), after, binding)

    def page(self, items: Sequence[T], keys: Sequence[str]) -> Page[T]:
        """The page made of up to `limit` items that were read, and the key of each."""
        if len(items) <= self.size:
            return Page(tuple(items), "")
        content = f"{self.binding}{keys[self.size - 1]}"
        return Page(tuple(items[: self.size]), base64.urlsafe_b64encode(content.encode()).decode())

    def slice(self, items: Sequence[T]) -> Page[T]:
        """A page of a complete list; tokens are positions."""
        first = self.after_number
        chosen = items[first : first + self.limit]
        return self.page(chosen, [str(first + i + 1) for i in range(len(chosen))])


def _not_ours(description: str) -> InvalidArgumentError:
    return InvalidArgumentError.of_field("page_token", description)
