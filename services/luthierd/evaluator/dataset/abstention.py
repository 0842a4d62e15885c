"""Whether an answer is one: rules that tell an answer from a question back and from a refusal.

English only, and generous to answers: what no rule knows is an answer.
"""

from __future__ import annotations

import enum
import json
import re


class Behaviour(enum.StrEnum):
    """What an assistant does with a request. Everything but ANSWER is an abstention."""

    ANSWER = "answer"
    ASK_BACK = "ask_back"
    ABSTAIN = "abstain"

    @property
    def is_abstention(self) -> bool:
        return self is not Behaviour.ANSWER


_REQUEST = (
    r"(?:clarify|specify|provide|share|tell|give|send|explain|elaborate|complete|finish|rephrase|repeat|describe|show)"
)
_HELP = (
    r"(?:know|help|answer|assist|provide|tell|say|comply|give|do (?:that|this|so)|access|determine|predict|advise|"
    r"have (?:access|any|enough|information|the ability)|fulfil|fulfill|offer|find|see|discuss|respond|support|make|"
    r"book|perform|recommend|diagnose|engage)"
)
_NOT = (
    r"(?:cannot|can ?not|can't|could not|couldn't|do not|don't|will not|won't|am not able to|'m not able to|"
    r"am unable to|'m unable to)"
)

ASKS_BACK = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"\b(?:could|can|would|will) you (?:please |kindly )?{_REQUEST}\b",
        rf"\bplease {_REQUEST}\b",
        r"\bwhat (?:do|did|exactly do|exactly did) you (?:mean|want|need|refer)",
        r"\b(?:which|what) (?:one|thing|function|item|document|part|topic)s? (?:do|did|are|would|is|should)\b[^.]*\?",
        r"\b(?:need|require|missing) (?:some |a bit )?(?:more|further) (?:details?|information|context)",
        r"\b(?:message|question|request|sentence|text) (?:is|was|seems|appears|looks) (?:to be |to have been )?"
        r"(?:cut off|truncated|incomplete|unfinished)",
        r"\bnot sure (?:what|which) you (?:mean|want|are (?:asking|referring))",
    )
)
ABSTAINS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bI(?:'m sorry,? (?:but )?I)? ?{_NOT} (?:really |actually |possibly )?{_HELP}\b",
        rf"\b(?:unable|not able|not (?:allowed|permitted|designed|equipped)) to {_HELP}\b",
        r"\b(?:outside|beyond|out of) (?:of )?(?:my|the) (?:scope|expertise|knowledge|area|task|capabilit)",
        r"\b(?:out of|not (?:in|within)) (?:my )?scope\b",
        r"\bI have no (?:information|idea|knowledge|access|way)\b",
        r"\b(?:insufficient|not enough|no) (?:information|context|data) (?:to|is|was|for|about)\b",
        r"\bas an? (?:AI|language model|assistant)\b[^.]*\b(?:not|cannot|can't|unable)\b",
        r"\b(?:I'm|I am) (?:sorry|afraid)\b[^.]*\b(?:not|cannot|can't|unable|won't)\b",
        r"\bnot something (?:that )?I (?:can|am)\b",
        r"\bI (?:must|have to) (?:decline|refuse)\b",
        r"\bI (?:would )?rather not\b",
    )
)
MAX_CHARACTERS = 8192
"""The rules' time grows with the square of the length, and an answer that abstains says so early."""
NOTHING = frozenset({"", "unknown", "n/a", "na", "none", "null", "not applicable", "not available", "-", "?"})


def behaviour_of(text: str) -> Behaviour:
    """What an answer does. A JSON object is read by its values; without any it abstains, as does an empty text.

    Only its first `MAX_CHARACTERS` count.
    """
    said = _said(text)[:MAX_CHARACTERS]
    if said.strip().lower() in NOTHING:
        return Behaviour.ABSTAIN
    plain = said.replace("\u2019", "'")
    if any(rule.search(plain) for rule in ASKS_BACK):
        return Behaviour.ASK_BACK
    return Behaviour.ABSTAIN if any(rule.search(plain) for rule in ABSTAINS) else Behaviour.ANSWER


def _said(text: str) -> str:
    """The values of a JSON object as one text; any other text as it is."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(parsed, dict):
        return text
    values = [str(value) for value in parsed.values() if value is not None]
    return " ".join(value for value in values if value.strip().lower() not in NOTHING)
