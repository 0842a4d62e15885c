"""Removes personal data with a recognizable format from texts before they are written.

The types are those that curation masks by default. They are found by patterns and checksums: no model, microseconds per
text. Names and places are not found; curation's PII step finds those.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

CARD_DIGITS = range(12, 20)
"""ISO/IEC 7812: account numbers of payment cards; shorter ones are no longer in use."""


class Kind(NamedTuple):
    """A type of personal data: its pattern, and an additional check."""

    entity: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


def redact(text: str) -> str:
    """`text` with every match replaced by `<ENTITY_TYPE>`. Earlier kinds win: an IBAN contains phone-like digits."""
    for kind in KINDS:
        text = kind.pattern.sub(lambda match, kind=kind: _replacement(kind, match), text)  # type: ignore[misc]
    return text


def _replacement(kind: Kind, match: re.Match[str]) -> str:
    return f"<{kind.entity}>" if kind.holds(match.group()) else match.group()


def _always(_text: str) -> bool:
    return True


def _is_card(text: str) -> bool:
    """The length of a card number, and the Luhn checksum."""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return len(digits) in CARD_DIGITS and any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 7064 MOD 97-10 over the number with its first four characters moved to the end."""
    compact = re.sub(r"[ -]", "", text).upper()
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _is_persons_address(text: str) -> bool:
    """An IP address that can identify a person: `::`, 127.0.0.1 and the like cannot."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback) and any(character.isdigit() for character in text)


def _is_ssn(text: str) -> bool:
    """Areas, groups and serials that the Social Security Administration assigns."""
    area, group, serial = re.split(r"[ -]", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _has_phone_digits(text: str) -> bool:
    """The digits of a national number, written in groups: a long bare number is as often an order number."""
    count = sum(character.isdigit() for character in text)
    return 8 <= count <= 12 and not text.isdigit()


def _kind(entity: str, pattern: str, holds: Callable[[str], bool] = _always) -> Kind:
    return Kind(entity, re.compile(pattern), holds)


KINDS = (
    _kind("EMAIL_ADDRESS", r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}\w{2,24}(?![\w-])"),
    _kind(
        "IBAN_CODE", r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?!\w)", _is_iban
    ),
    _kind("CRYPTO", r"(?<!\w)(?:bc1[ac-hj-np-z02-9]{11,71}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})(?!\w)"),
    _kind("CREDIT_CARD", r"(?<![\w.+-])\d(?:[ -]?\d){11,18}(?![\w-]?\d)", _is_card),
    _kind("US_SSN", r"(?<![\w.+-])\d{3}([ -])\d{2}\1\d{4}(?![\w-]?\d)", _is_ssn),
    _kind("IP_ADDRESS", r"(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?![\w:]|\.\d)", _is_persons_address),
    _kind("IP_ADDRESS", r"(?<![\w.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", _is_persons_address),
    _kind(
        "PHONE_NUMBER",
        r"(?<![\w.+-])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?: ?x ?\d{1,5})?(?![\w.-]?\d)",
    ),
    _kind("PHONE_NUMBER", r"(?<![\w.+-])(?:\+|00)\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?![\w.-]?\d)"),
    _kind(
        "PHONE_NUMBER", r"(?<![\w.+-])(?:\(\d{2,4}\)|0\d{1,4})(?:[ .-]?\d{2,4}){2,4}(?![\w.-]?\d)", _has_phone_digits
    ),
    _kind("PHONE_NUMBER", r"(?<![\w.+-])\d{2}([ .-])\d{2}(?:\1\d{2}){2,3}(?![\w.-]?\d)"),
    _kind("PHONE_NUMBER", r"(?<![\w.+-])\d{2,3}([ -])\d{3}\1\d{3}(?![\w.-]?\d)"),
)
"""Every repetition is bounded, so that no text takes long."""
