"""machine: what a machine says of itself, and which are refused."""

import json
from pathlib import Path
from typing import Any

from machine import installed, read, refusal

GOOD: dict[str, Any] = {
    "name": "web-1",
    "system": "Debian 12",
    "memory_mb": 4096,
    "free_disk_mb": 9000,
    "installed": {},
}


def test_a_debian_12_with_room_is_taken() -> None:
    assert refusal(GOOD, 2048) == ""


def test_another_system_is_refused_by_its_name() -> None:
    said = refusal({**GOOD, "system": "Debian 11"}, 2048)
    assert "web-1 runs Debian 11" in said
    assert "Give it a machine with Debian 12" in said


def test_a_disk_without_room_is_refused_with_the_variable_that_says_so() -> None:
    said = refusal({**GOOD, "free_disk_mb": 100}, 2048)
    assert "web-1 has 100 MB free" in said
    assert "2048 MB of common_free_disk_mb" in said


def test_what_is_installed_is_what_the_record_says(tmp_path: Path) -> None:
    path = tmp_path / "installed.json"
    path.write_text(json.dumps({"redis": "0a1b"}))
    assert installed(path) == {"redis": "0a1b"}


def test_without_a_record_or_with_half_of_one_nothing_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "installed.json"
    assert installed(path) == {}
    path.write_text('{"redis": "0a')
    assert installed(path) == {}


def test_a_machine_is_read_at_once(tmp_path: Path) -> None:
    machine = read(tmp_path / "none")
    assert machine.keys() == GOOD.keys()
    assert machine["memory_mb"] > 0
