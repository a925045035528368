"""The revisions of the metadata database's schema that the installed Superset knows.

Standard library only: Ansible ships this file with the module superset_schema.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path


class SchemaError(Exception):
    """Says which action failed on what, and what to do."""


def revisions(scripts: dict[str, str]) -> tuple[str, set[str]]:
    """Return the head and all revisions of Alembic's scripts {name: text}, without running them."""
    known: set[str] = set()
    parents: set[str] = set()
    for name, text in scripts.items():
        found = dict(re.findall(r"^(revision|down_revision)\b[^=]*= *(.+?) *(?:#.*)?$", text, re.M))
        try:
            known.add(ast.literal_eval(found["revision"]))
            parent = ast.literal_eval(found["down_revision"])
        except (KeyError, SyntaxError, ValueError) as error:
            raise SchemaError(f"read the revision of the migration {name}: {error!r}") from error
        parents |= {parent} if isinstance(parent, str) else set(parent or ())
    heads = known - parents
    if len(heads) != 1:
        raise SchemaError(f"the installed Superset has {len(heads)} migration heads, not one")
    return heads.pop(), known


def installed_revisions() -> tuple[str, set[str]]:
    """Return the head and all revisions of the installed Superset."""
    package = importlib.util.find_spec("superset")
    if package is None or not package.submodule_search_locations:
        raise SchemaError(
            f"find Superset: {sys.executable} does not have it; "
            "set ansible_python_interpreter to the Python of Superset's virtual environment"
        )
    versions = Path(package.submodule_search_locations[0]) / "migrations" / "versions"
    return revisions(
        {path.name: path.read_text() for path in versions.glob("*.py") if path.stem != "__init__"}
    )
