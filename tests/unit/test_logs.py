"""Log lines are JSON events with fields."""

from __future__ import annotations

import json
import logging
import pathlib
import subprocess
import sys

from luthierd import logs


def written(level: int, message: str, **extra: object) -> dict[str, object]:
    record = logging.LogRecord("luthierd.x", level, "file", 1, message, (), None)
    record.__dict__.update(extra)
    event: dict[str, object] = json.loads(logs.JsonFormatter("trainer").format(record))
    return event


def test_a_line_has_time_level_service_event_and_its_fields() -> None:
    event = written(logging.WARNING, "worker ended", job="j", exit_code=9)
    assert str(event.pop("time")).endswith("+00:00")
    assert event == {
        "level": "WARNING",
        "service": "trainer",
        "logger": "luthierd.x",
        "event": "worker ended",
        "job": "j",
        "exit_code": 9,
    }


def test_the_request_id_of_the_call_is_in_its_lines_and_in_no_other() -> None:
    token = logs.request_id.set("abc")
    assert written(logging.INFO, "x")["request_id"] == "abc"
    logs.request_id.reset(token)
    assert "request_id" not in written(logging.INFO, "x")


def test_a_value_that_is_not_json_is_written_as_text() -> None:
    assert written(logging.INFO, "x", thing={1})["thing"] == "{1}"


def test_every_logger_of_the_process_writes_json_to_stderr_at_the_level_asked_for() -> None:
    code = (
        "import logging; from luthierd.logs import configure_logging; configure_logging('trainer', 'INFO');"
        "logging.getLogger('any.library').info('hello'); logging.getLogger('x').debug('unseen');\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('x').exception('failed')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["hello", "failed"]
    assert "ZeroDivisionError" in events[1]["trace"]
    assert done.stdout == ""


def test_a_log_file_is_rotated_for_all_who_write_to_it(tmp_path: pathlib.Path) -> None:
    """Libraries and child processes write to the same open file."""
    code = """
import logging, os
from luthierd.logs import configure_logging
configure_logging("trainer", "INFO", max_bytes=2000, backup_count=2)
for number in range(100):
    logging.info("line %d", number)
os.write(2, b"from a library\\n")
"""
    path = tmp_path / "trainer.log"
    with path.open("ab") as output:
        subprocess.run([sys.executable, "-c", code], stderr=output, check=True)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["trainer.log", "trainer.log.1", "trainer.log.2"]
    assert max(found.stat().st_size for found in tmp_path.iterdir()) <= 2100
    *lines, last = path.read_text().splitlines()
    assert last == "from a library"
    assert not lines or json.loads(lines[-1])["event"] == "line 99"
