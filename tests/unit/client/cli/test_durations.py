from __future__ import annotations

import click
import pytest
from luthier.cli.durations import seconds


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), (" 7d ", 604800)])
def test_a_duration_is_a_number_and_a_unit(text, expected):
    assert seconds(text, option="--ttl") == expected


@pytest.mark.parametrize("text", ["", "30", "soon", "-1d", "1w"])
def test_other_texts_are_refused_with_the_option_that_they_were_given_to(text):
    with pytest.raises(click.BadParameter, match="90d") as caught:
        seconds(text, option="--ttl")
    assert caught.value.param_hint == "--ttl"
