"""What of the local cloud may import what: Linux below, AWS above it, the daemon on top."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from superset_fleet.control.ask import ROOT

PACKAGE = "localcloud"
LAYERS = {
    "": set(),  # localcloud/__init__.py
    "cloud": set(),
    "host": {"cloud"},
    "api": {"cloud", "host"},
    "server": {"api", "cloud", "host"},
    "__main__": {"cloud", "host"},
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports anywhere, also within functions and for type checks alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_layers_import_what_the_table_says_and_nothing_else() -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for module, path in FILES.items():
        layer = layer_of(module)
        seen[layer] |= {layer_of(name) for name in imports(path) if name in FILES} - {layer, ""}
    assert seen == LAYERS


def test_moto_is_a_matter_of_the_api_alone() -> None:
    users = {
        layer_of(module)
        for module, path in FILES.items()
        if any(name.split(".")[0] == "moto" for name in imports(path))
    }
    assert users == {"api"}


def test_no_import_goes_in_a_circle() -> None:
    """A module waits for those that it imports, and for the packages that these are in."""
    needs = {
        module: {
            ".".join(parts[:count])
            for name in imports(path)
            if name in FILES
            for parts in [name.split(".")]
            for count in range(1, len(parts) + 1)
        }
        for module, path in FILES.items()
    }
    assert needs["localcloud.api.autoscaling.groups"] > {"localcloud.api.autoscaling.members"}
    TopologicalSorter(needs).prepare()  # raises CycleError with the circle
