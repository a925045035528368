"""The lookups `fingerprints` and `wheel`: what has to be installed anew, and what has not."""

import ast
from collections.abc import Iterator
from pathlib import Path

import fingerprints
import pytest
import wheel

SERVICES = ("agent", "boot", "fleetd", "guard", "scaler", "watchdog")


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


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of the package that a file imports, directly."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = path.parents[node.level - 1]
        names = [node.module.split(".")] if node.module else [[a.name] for a in node.names]
        for name in names:
            for found in (base.joinpath(*name).with_suffix(".py"), base.joinpath(*name)):
                if found.exists():
                    yield from found.rglob("*.py") if found.is_dir() else [found]


def test_a_change_of_whatever_a_service_imports_makes_another_wheel() -> None:
    known = set(wheel.sources())
    wanted = [
        path
        for name in SERVICES
        for path in [wheel.PACKAGE / f"{name}.py", *(wheel.PACKAGE / name).rglob("*.py")]
        if path.exists()
    ]
    needed: set[Path] = set()
    while wanted:
        path = wanted.pop()
        if path not in needed:
            needed.add(path)
            wanted += imported(path)
    assert needed <= known
    assert {path.suffix for path in known} > {".py", ".json"}

    # What no service imports is the control machine's: else its changes make new images.
    first = {path for path in known if path.parent == wheel.PACKAGE and path.suffix == ".py"}
    assert {path.name for path in first - needed} <= {"__init__.py"}


def test_what_only_the_control_machine_runs_is_there_by_that_name() -> None:
    assert [name for name in wheel.CONTROL if not (wheel.PACKAGE / name).exists()] == []
