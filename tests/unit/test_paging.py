"""Pages: every item once, tokens bound to their list."""

from __future__ import annotations

import base64

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, PageRequest

KEYS = [f"k{number:02}" for number in range(10)]


def read(page: PageRequest) -> list[str]:
    """What a store reads for a page of `KEYS`."""
    return [key for key in KEYS if key > page.after][: page.limit]


@pytest.mark.parametrize("size", [1, 3, 5, 9, 10, 11])
def test_pages_give_every_item_once_and_in_order(size: int) -> None:
    seen: list[str] = []
    token = ""
    while True:
        items = read(request := PageRequest.parse(size, token, "tenants/acme"))
        page = request.page(items, items)
        assert len(page.items) <= size
        seen += page.items
        if not page.next_page_token:
            break
        token = page.next_page_token
    assert seen == KEYS


def test_a_full_last_page_has_no_next() -> None:
    request = PageRequest.parse(10, "")
    assert request.page(KEYS, KEYS).next_page_token == ""


def test_size_0_is_the_default_and_a_large_size_is_coerced() -> None:
    assert PageRequest.parse(0, "").size == DEFAULT_PAGE_SIZE
    assert PageRequest.parse(10**6, "").size == MAX_PAGE_SIZE


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        PageRequest.parse(-1, "")
    assert [violation.field for violation in caught.value.violations] == ["page_size"]


def token_of(*arguments: str) -> str:
    return PageRequest.parse(1, "", *arguments).page(["a", "b"], ["a", "b"]).next_page_token


def test_a_token_of_another_list_is_refused() -> None:
    token = token_of("tenants/acme")
    assert PageRequest.parse(1, token, "tenants/acme").after == "a"
    for arguments in ([], ["tenants/rival"], ["tenants/acme", "filter"]):
        with pytest.raises(InvalidArgumentError):
            PageRequest.parse(1, token, *arguments)


def encoded(content: str) -> str:
    return base64.urlsafe_b64encode(content.encode()).decode()


BINDING = PageRequest.parse(1, "").binding
FOREIGN_TOKENS = [
    "x",
    "ä",
    "\ud7ff",
    encoded("null"),
    encoded('{"after": "a"}'),
    encoded('{"a":' * 20_000),
    encoded(BINDING[:-1]),
    encoded(f"{BINDING}a\0b"),
    encoded(f"{BINDING}a\nb"),
    base64.urlsafe_b64encode(b"\xff" * 40).decode(),
]


@pytest.mark.parametrize("token", FOREIGN_TOKENS)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        PageRequest.parse(1, token)
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 10, "9" * 5000, "1e3", "٣", "nan", " 1"])
def test_a_key_that_is_no_number_is_refused_where_keys_are_numbers(after: str) -> None:
    page = PageRequest.parse(1, encoded(f"{BINDING}{after}"))
    with pytest.raises(InvalidArgumentError) as caught:
        page.slice(KEYS)
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


def test_a_complete_list_is_paged_by_position() -> None:
    first = PageRequest.parse(4, "").slice(KEYS)
    second = PageRequest.parse(4, first.next_page_token).slice(KEYS)
    assert (first.items, second.items) == (tuple(KEYS[:4]), tuple(KEYS[4:8]))
