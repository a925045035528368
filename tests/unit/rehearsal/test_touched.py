"""Which parts of the proof a change can have touched: the table, and what git says."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import touched
from superset_fleet.control.ask import ROOT


def files() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_file_of_the_repository_has_a_rule() -> None:
    assert [path for path in files() if touched.rule_for(path) is None] == []


def test_every_rule_is_for_a_file_there_is_or_for_tests_to_come() -> None:
    known = files()
    unused = [
        pattern
        for pattern, _ in touched.RULES
        if not any((rule := touched.rule_for(path)) and rule[0] == pattern for path in known)
    ]
    assert set(unused) <= {"tests/harness/**", "tests/budgets.toml"}


def test_rules_name_parts_and_scenarios_that_there_are() -> None:
    named = {name for _, names in touched.RULES for name in names} - {"<scenario>"}
    assert named <= set(touched.ALL)


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_a_role_is_proven_by_its_scenario_and_by_the_whole(role: str) -> None:
    names, _ = touched.select([f"roles/{role}/tasks/install.yml"])
    assert {"lint", "unit", "site", role} & set(touched.ALL) <= set(names)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("README.md", ["lint", "unit"]),
        ("molecule/redis/tests/test_redis.py", ["lint", "redis"]),
        ("molecule/default/molecule.yml", [*touched.ALL]),
        ("tests/localcloud/test_machines.py", ["lint", "cloud"]),
        ("tests/support/waiting.py", ["lint", "unit", "harness", "cloud"]),
        ("tests/support/deployed/users.py", ["lint", *touched.SCENARIOS]),
        ("playbooks/upgrade.yml", ["lint", "unit", "site", "upgrade"]),
        ("roles/common/tasks/install.yml", [*touched.ALL]),
        ("something/new.txt", [*touched.ALL]),
    ],
)
def test_what_a_path_touches(path: str, names: list[str]) -> None:
    assert touched.select([path])[0] == names


def test_several_changes_touch_what_each_of_them_touches_and_say_why() -> None:
    names, why = touched.select(["molecule/redis/molecule.yml", "molecule/agent/molecule.yml"])
    assert names == ["lint", "agent", "redis"]
    assert why == [
        "molecule/redis/molecule.yml (molecule/<scenario>/**): lint, redis",
        "molecule/agent/molecule.yml (molecule/<scenario>/**): lint, agent",
    ]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git repository with the committed files `kept`, `moved` and `gone`."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.setattr(touched, "ROOT", root)
    for name in ("kept", "moved", "gone"):
        (root / name).write_text(f"{name}\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "-c", "user.name=n", "-c", "user.email=e@e", "commit", "--quiet", "-m", "first")
    yield root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True)


def test_a_change_is_whatever_differs_from_the_base_committed_or_not(repository: Path) -> None:
    git(repository, "mv", "moved", "moved here")
    (repository / "gone").unlink()
    (repository / "new").touch()
    assert touched.changed("HEAD") == ["gone", "moved", "moved here", "new"]


def test_a_base_that_git_does_not_know_is_refused(repository: Path) -> None:
    with pytest.raises(ValueError, match="no-such-branch"):
        touched.changed("no-such-branch")
