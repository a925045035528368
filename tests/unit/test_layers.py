"""What of the package may import what, and what of it Ansible can ship."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from superset_fleet.control.ask import ROOT

PACKAGE = ROOT / "src/superset_fleet"
# What all may import, and what imports nothing of the package.
ROOT_FILES = {"files.py", "__init__.py", "roles.py", "times.py"}
# The ground, which all may import; it imports the root files alone.
GROUND: dict[str, set[str]] = {"cloud": set(), "daemon": set(), "state": set()}
# Actors: each imports the ground and nobody beside it.
ACTORS = {
    "agent": {"cloud", "daemon"},
    "control": {"cloud", "state"},
    "guard": {"daemon", "state"},  # of daemon: READY, and how lines of the journal look
    "membership": {"cloud", "daemon"},
    "scaler": {"cloud", "daemon", "state"},
    "watchdog": {"daemon", "state"},
}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a file imports, absolutely, as parts of dotted names."""
    inside = path.is_relative_to(PACKAGE)
    here = path.relative_to(PACKAGE.parent).parts[:-1] if inside else ()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield module
            yield from ((*module, alias.name) for alias in node.names)


def package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def test_packages_import_what_the_table_says_and_nothing_else() -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        seen[package_of(path)] |= {
            name[1]
            for name in imports(path)
            if name[0] == "superset_fleet" and len(name) > 1 and (PACKAGE / name[1]).is_dir()
        } - {package_of(path)}
    assert dict(seen) == {"": set(), **GROUND, **ACTORS}


def test_root_files_import_nothing_of_the_package() -> None:
    files = {path.name: path for path in PACKAGE.glob("*.py")}
    assert set(files) == ROOT_FILES
    for path in files.values():
        assert [name for name in imports(path) if name[0] == "superset_fleet"] == []


def test_what_is_imported_of_the_package_is_there() -> None:
    """mypy does not miss a module, since some libraries have no types."""

    def there(name: tuple[str, ...]) -> bool:
        path = PACKAGE.parent.joinpath(*name)
        if path.with_suffix(".py").is_file() or path.is_dir():
            return True
        module = path.parent.with_suffix(".py")
        module = module if module.is_file() else path.parent / "__init__.py"
        return module.is_file() and bool(re.search(rf"\b{name[-1]}\b", module.read_text()))

    names = {name for path in PACKAGE.rglob("*.py") for name in imports(path)}
    assert [name for name in names if name[0] == "superset_fleet" and not there(name)] == []


def test_what_is_run_by_name_is_there() -> None:
    """By units, playbooks, other programs and tests: `-m superset_fleet.scaler`."""
    text = "".join(
        path.read_text()
        for tree in ("benchmarks", "docs", "molecule", "playbooks", "roles", "src", "tests")
        for path in (ROOT / tree).rglob("*")
        if path.suffix in {".j2", ".md", ".py", ".sh", ".yml"}
    )
    names = set(re.findall(r"""-m"?,? "?superset_fleet\.([a-z_.]+[a-z])""", text))
    assert {"agent", "agent.boot", "membership", "scaler", "watchdog"} <= names
    paths = [PACKAGE.joinpath(*name.split(".")) for name in names]
    assert [
        path
        for path in paths
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file()
    ] == []


def test_actors_import_the_ground_alone() -> None:
    assert {name for used in ACTORS.values() for name in used} <= GROUND.keys()


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        path: {
            file
            for name in imports(path)
            if (file := PACKAGE.parent.joinpath(*name).with_suffix(".py")).exists()
        }
        for path in PACKAGE.rglob("*.py")
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names it


def shipped(path: Path) -> set[Path]:
    """Return the files of the package that Ansible ships with a module."""
    found: set[Path] = set()
    wanted = [path]
    while wanted:
        for name in imports(wanted.pop()):
            if name[:2] == ("ansible", "module_utils"):
                name = name[2:]
            if name[0] != "superset_fleet":
                continue
            file = PACKAGE.parent.joinpath(*name).with_suffix(".py")
            if file.exists() and file not in found:
                found.add(file)
                wanted.append(file)
    return found


@pytest.mark.parametrize(
    "module", sorted((ROOT / "library").glob("*.py")), ids=lambda path: path.stem
)
def test_a_module_names_each_library_that_it_needs_beyond_pythons_own(module: Path) -> None:
    (text,) = (
        str(node.value.value)
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and node.targets[0].id == "DOCUMENTATION"
    )
    named = set(yaml.safe_load(text).get("requirements", ()))
    brought = {"botocore"} if "boto3" in named else set()
    known = {*sys.stdlib_module_names, *brought, "ansible", "superset_fleet", "yaml"}
    used = {name[0] for path in {module, *shipped(module)} for name in imports(path)}
    assert used - known == named
