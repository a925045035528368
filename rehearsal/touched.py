"""Which parts of the proof a change can have touched: one table, and everything where it is unsure.

Names are those of parts (lint, unit, …) and of scenarios (directories of `molecule/`).
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAST = ("upgrade", "faults", "wake")  # they leave another fleet than they found
SCENARIOS = (
    *sorted(
        path.parent.name
        for path in (ROOT / "molecule").glob("*/molecule.yml")
        # `default` makes the fleet of all others.
        if path.parent.name not in ("default", *LAST)
    ),
    *LAST,
)
PARTS = ("lint", "unit", "harness", "cloud")
ALL = (*PARTS, *SCENARIOS)
CODE = ("lint", "unit")
DEPLOYED = (*CODE, "site")  # whatever machines get
IMAGE = (*DEPLOYED, "bake", "upgrade")  # whatever is frozen

# The first pattern that a path matches counts: `*` is any name, `**` any path, and `<scenario>` the
# scenario of that directory. A role is proven by its scenario and by those that lean on it.
RULES: Sequence[tuple[str, tuple[str, ...]]] = (
    # Text, settings of checks
    ("LICENSE", ("lint",)),
    ("*.md", CODE),
    ("docs/**", CODE),
    ("molecule/README.md", CODE),
    (".gitignore", CODE),
    (".yamllint", CODE),
    (".ansible-lint", CODE),
    # Tests
    ("tests/unit/**", CODE),
    ("tests/localcloud/**", ("lint", "cloud")),
    ("tests/harness/**", ("lint", "harness")),
    ("tests/budgets.toml", CODE),
    ("tests/support/deployed/**", ("lint", *SCENARIOS)),
    ("tests/support/history.py", ("lint", "harness", *SCENARIOS)),
    ("tests/**", (*CODE, "harness", "cloud")),
    ("molecule/shared/**", ALL),
    ("molecule/default/**", ALL),
    ("molecule/conftest.py", ALL),
    ("molecule/<scenario>/**", ("lint", "<scenario>")),
    ("benchmarks/**", CODE),
    # What makes and proves the fleet
    ("fleet", ALL),
    (".ci/run", ALL),
    ("rehearsal/**", ALL),
    ("localcloud/**", ALL),
    (".config/**", ALL),
    ("ansible.cfg", ALL),
    ("pyproject.toml", ALL),
    ("requirements.txt", ALL),
    # Roles
    ("roles/agent/**", (*IMAGE, "agent", "faults", "scale", "wake")),
    ("roles/celery_worker/**", (*IMAGE, "celery_worker", "faults", "reports", "scaler", "wake")),
    (
        "roles/haproxy/**",
        (*DEPLOYED, "harness", "haproxy", "membership", "reports", "scale", "upgrade"),
    ),
    ("roles/membership/**", (*DEPLOYED, "membership", "haproxy", "scale", "upgrade")),
    ("roles/postgres/**", (*DEPLOYED, "postgres", "faults", "superset", "warehouse")),
    (
        "roles/redis/**",
        (*DEPLOYED, "redis", "faults", "scaler", "scheduler", "superset", "wake", "watchdog"),
    ),
    ("roles/scaler/**", (*IMAGE, "scaler", "faults", "reports", "watchdog", "wake")),
    ("roles/scheduler/**", (*IMAGE, "scheduler", "faults", "reports", "scaler", "wake")),
    ("roles/superset_web/**", (*IMAGE, "harness", "superset_web", "agent", "haproxy", "scale")),
    ("roles/watchdog/**", (*IMAGE, "watchdog", "faults", "wake")),
    ("roles/warehouse/**", (*DEPLOYED, "warehouse", "faults", "wake")),
    ("roles/**", ALL),  # common, fleet_package, superset: on every machine, or on most
    # Playbooks, modules and the package, where it is clear who uses them
    ("playbooks/upgrade.yml", (*CODE, "site", "upgrade")),
    ("playbooks/tasks/upgrade/**", (*CODE, "site", "upgrade")),
    ("playbooks/canary.yml", (*CODE, "site", "upgrade")),
    ("playbooks/tasks/canary_query.yml", (*CODE, "site", "upgrade")),
    ("library/asg_replacement.py", (*CODE, "cloud", "site", "upgrade")),
    ("library/haproxy_*.py", (*DEPLOYED, "membership", "haproxy", "scale", "upgrade")),
    ("library/image_secrets.py", (*CODE, "bake", "site", "upgrade")),
    ("library/scaler_hold.py", (*DEPLOYED, "scaler", "upgrade")),
    ("library/warehouse_tables.py", (*DEPLOYED, "warehouse")),
    ("playbooks/**", ALL),
    ("library/**", ALL),
    ("inventory/static.example.yml", CODE),
    ("inventory/aws.asg.yml", CODE),
    ("inventory/**", ALL),
    (
        "src/superset_fleet/control/cli.py",
        (*DEPLOYED, "membership", "haproxy", "scaler", "celery_worker"),
    ),
    ("src/superset_fleet/control/status.py", DEPLOYED),
    ("src/superset_fleet/agent/**", (*IMAGE, "agent", "celery_worker", "scale")),
    ("src/superset_fleet/membership/**", (*DEPLOYED, "membership", "haproxy", "scale", "upgrade")),
    ("src/**", ALL),
)


@functools.cache
def expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern."""
    words = {"**": ".+", "*": "[^/]*", "<scenario>": f"(?P<scenario>{'|'.join(SCENARIOS)})"}
    parts = re.split(r"(\*\*|\*|<scenario>)", pattern)
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def rule_for(path: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the pattern that a path matches and what that touches; None where there is none."""
    for pattern, touched in RULES:
        if found := expression(pattern).fullmatch(path):
            scenario = found.groupdict().get("scenario", "")
            return pattern, tuple(scenario if name == "<scenario>" else name for name in touched)
    return None


def select(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names that changed paths touch, in the order of ALL, and why, line by line."""
    touched: set[str] = set()
    why = []
    for path in paths:
        pattern, names = rule_for(path) or ("no rule", ALL)
        touched |= set(names)
        said = "everything" if set(names) == set(ALL) else ", ".join(names)
        why.append(f"{path} ({pattern}): {said}")
    return [name for name in ALL if name in touched], why


def changed(base: str) -> list[str]:
    """Return the paths that differ from a git reference, those not yet tracked among them.

    Raises ValueError with what git says.
    """
    found: set[str] = set()
    for command in (
        # Of a file that was renamed both names count.
        ["git", "diff", "--name-only", "--no-renames", "-z", base, "--"],
        ["git", "ls-files", "--others", "--exclude-standard", "-z"],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip())
        found |= {path for path in done.stdout.split("\0") if path}
    return sorted(found)
