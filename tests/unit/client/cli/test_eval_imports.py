from __future__ import annotations

import json


async def test_an_evaluation_becomes_files_and_what_is_not_imported_is_listed(services, luthier, tmp_path):
    document = {
        "prompts": ["Capital of {{c}}?"],
        "tests": [{"vars": {"c": "France"}, "assert": [{"type": "equals", "value": "Paris"}, {"type": "cost"}]}],
    }
    (tmp_path / "p.yaml").write_text(json.dumps(document))
    found = await luthier("import-eval", tmp_path / "p.yaml", "--from", "promptfoo", "-o", tmp_path / "out")
    assert found.code == 0, found.err
    assert "not imported: tests[0].assert[1]: cost" in found.err
    assert (tmp_path / "out/unsupported.txt").read_text().startswith("tests[0].assert[1]: cost")
    [row] = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert [turn["content"] for turn in row["messages"]] == ["Capital of France?", "Paris"]
    assert (tmp_path / "out/evaluation.yaml").read_text() == "metrics:\n- exact_match\n"
    assert services.asked == {}


async def test_a_file_that_is_no_evaluation_is_refused(services, luthier, tmp_path):
    (tmp_path / "p.yaml").write_text("a: 1\n")
    found = await luthier("import-eval", tmp_path / "p.yaml", "--from", "openai", "-o", tmp_path / "out")
    assert found.code == 64
    assert "testing_criteria" in found.err
