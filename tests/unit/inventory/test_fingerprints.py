"""The lookups `fingerprints` and `wheel`: what has to be installed anew, and what has not."""

from pathlib import Path

import fingerprints
import pytest
import wheel


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role with two files."""
    path = tmp_path / "cook"
    (path / "tasks").mkdir(parents=True)
    (path / "tasks" / "install.yml").write_text("- boil: water")
    (path / "files").mkdir()
    (path / "files" / "pot").write_text("steel")
    return path


def test_nothing_changed_is_the_same_fingerprint(role: Path) -> None:
    assert fingerprints.fingerprint(role, {"a": 1}) == fingerprints.fingerprint(role, {"a": 1})


def test_a_change_of_a_file_of_its_name_and_of_an_input_is_another(role: Path) -> None:
    seen = {fingerprints.fingerprint(role, {"a": 1}), fingerprints.fingerprint(role, {"a": 2})}
    (role / "files" / "pot").write_text("iron")
    seen.add(fingerprints.fingerprint(role, {"a": 1}))
    (role / "files" / "pot").rename(role / "files" / "pan")
    seen.add(fingerprints.fingerprint(role, {"a": 1}))
    assert len(seen) == 4


def test_the_wheel_is_of_all_that_machines_run_and_of_no_more() -> None:
    """That nothing else imports `control` is in test_layers."""
    entries = {path.name for path in wheel.PACKAGE.iterdir()} - {"control", "__pycache__"}
    assert {path.relative_to(wheel.PACKAGE).parts[0] for path in wheel.sources()} == entries
    assert {path.suffix for path in wheel.sources()} == {".py", ".json", ".html"}
