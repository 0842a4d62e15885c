"""Telling an answer from a question back and from a refusal."""

from __future__ import annotations

import pytest
from luthierd.evaluator.dataset.abstention import Behaviour, behaviour_of

ANSWERS = (
    "The capital of France is Paris.",
    '{"summary": "Return the number of items.", "module": "stats"}',
    "Compute the mean over an axis. Raises ValueError if the input holds no data.",
    "I understand how hard this is. Here is the summary: it sorts the array.",
    "Do not pass negative values; they are clipped.",
    "Whether the file could not be opened.",
    "No.",
    "Sorry to hear that! The answer is 42.",
    "It finishes incomplete downloads.",
    "Would it be faster with a set? Yes: membership is O(1).",
)
QUESTIONS = (
    "Could you please clarify which function you mean?",
    "What do you mean by the usual?",
    "I need more information to answer this. Which document are you referring to?",
    "Please provide the rest of the code.",
    "It looks like your message was cut off. What comes next?",
    "I'm not sure what you mean. Can you give an example?",
    '{"summary": "Could you share the function body?", "module": ""}',
    "Sorry, I can't tell what this is about; can you send the whole question?",
)
REFUSALS = (
    "I'm sorry, but I cannot help with that.",
    "I don't know.",
    "As an AI language model, I cannot predict the weather.",
    "That is outside my scope.",
    "I have no information about your dentist.",
    "I'm not able to book tables.",
    "There is not enough information to answer.",
    "I\u2019m afraid I can\u2019t do that.",
    '{"summary": null, "module": "n/a"}',
    "",
    "Unfortunately, I am unable to access your calendar.",
    "I must decline.",
)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_an_answer(text: str) -> None:
    assert behaviour_of(text) is Behaviour.ANSWER


@pytest.mark.parametrize("text", QUESTIONS)
def test_a_question_back_is_seen(text: str) -> None:
    assert behaviour_of(text) is Behaviour.ASK_BACK


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_seen(text: str) -> None:
    assert behaviour_of(text) is Behaviour.ABSTAIN
