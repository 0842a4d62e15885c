from __future__ import annotations

from luthierd.storage.json_keys import renamed


def test_a_key_is_renamed_everywhere_below_one_parent_or_in_the_document_itself() -> None:
    document = {"figures": {"figures": 1}, "retrievers": [{"figures": 2}], "look": [{"look": 3}]}
    keys = {"look": "access", ".figures": "overall", "retrievers.figures": "metrics"}
    assert renamed(document, keys) == {
        "overall": {"figures": 1},
        "retrievers": [{"metrics": 2}],
        "access": [{"access": 3}],
    }
