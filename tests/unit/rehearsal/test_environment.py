"""The environment of ./fleet: real ones, of few packages, in small checkouts of their own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.environment import uv_settings
from rehearsal.locks import Held, locked
from superset_fleet.control.ask import ROOT

# What the project's own wheel is made with, and nothing else.
FEW = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
PARTS = ("fleet", "rehearsal", "pyproject.toml", "README.md", "src", "roles/superset/files/uv.txt")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without an environment, whose lock has few packages; uv is there."""
    root = tmp_path / "checkout"
    for part in PARTS:
        target = root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target)
        else:
            shutil.copy(ROOT / part, target)
    lock = (ROOT / "requirements.txt").read_text()
    entries = re.findall(r"^(?:[\w-]+)==.*(?:\n +--hash.*)+", lock, re.M)
    few = [entry for entry in entries if entry.partition("==")[0] in FEW]
    (root / "requirements.txt").write_text("\n".join(few) + "\n")
    for uv in ROOT.glob(".venv-uv-*"):
        shutil.copytree(uv, root / uv.name, symlinks=True)
    return root


def start(root: Path) -> subprocess.Popen[str]:
    """Begin to make the environment, in a process group of its own."""
    return subprocess.Popen(
        ["./fleet"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip


def make(root: Path) -> str:
    """Make the environment, and return what was said about it."""
    done = subprocess.run(["./fleet"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def seen(what: Callable[[], Any]) -> None:
    """Wait at most a minute until something is so."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def source(root: Path) -> Path:
    """Return the path of the project's package, as a program of the environment has it."""
    program = root / ".venv/bin/python"
    code = "import superset_fleet; print(superset_fleet.__file__)"
    done = subprocess.run([program, "-c", code], cwd="/", capture_output=True, text=True)
    return Path(done.stdout.strip())


def starts(root: Path) -> bool:
    """Return whether a package's script starts."""
    done = subprocess.run([root / ".venv/bin/hatchling", "--help"], capture_output=True)
    return done.returncode == 0


def kill_halfway(root: Path) -> None:
    """Begin to make the environment, and kill every process of it when packages are there."""
    process = start(root)
    seen(lambda: [*root.glob(".venv-new-*/lib/python*/site-packages")])
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_two_at_the_same_time_make_one_environment_and_both_go_on(checkout: Path) -> None:
    processes = [start(checkout) for _ in range(2)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("making .venv" in each for each in said) == 1
    assert starts(checkout)


def test_the_next_one_makes_it_where_the_first_was_killed(checkout: Path) -> None:
    kill_halfway(checkout)
    assert not (checkout / ".venv").exists()
    assert "is made" in make(checkout)
    assert starts(checkout)
    assert [*checkout.glob(".venv-new-*")] == []


def test_programs_have_the_old_environment_until_the_new_one_is_complete(checkout: Path) -> None:
    make(checkout)
    old = (checkout / ".venv").readlink()
    lock = checkout / "requirements.txt"
    lock.write_text(f"# a new one\n{lock.read_text()}")
    kill_halfway(checkout)
    assert (checkout / ".venv").readlink() == old
    assert starts(checkout)
    make(checkout)
    assert (checkout / ".venv").readlink() != old
    assert starts(checkout)


def test_a_directory_of_an_earlier_version_is_replaced(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    make(checkout)
    assert starts(checkout)


@pytest.mark.parametrize("move", [True, False])
def test_a_checkout_that_was_moved_or_copied_runs_its_own_code(checkout: Path, move: bool) -> None:
    make(checkout)
    other = checkout.with_name("other place")
    if move:
        checkout.rename(other)
    else:
        shutil.copytree(checkout, other, symlinks=True)
    assert source(other) == other / "src/superset_fleet/__init__.py"
    assert starts(other)
    assert make(other) == ""


def test_what_pip_and_uv_say_is_told_where_a_package_is_not_as_locked(checkout: Path) -> None:
    lock = checkout / "requirements.txt"
    lock.write_text(re.sub(r"sha256:\w{4}", "sha256:0000", lock.read_text()))
    done = subprocess.run(["./fleet"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Hash mismatch" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A process that holds a lock for ever: the lock, and the process' id."""
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from rehearsal.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield path, process.pid
        process.kill()


def test_who_waits_in_vain_learns_which_process_holds_the_lock(holder: tuple[Path, int]) -> None:
    path, process = holder
    with pytest.raises(Held, match=f"process {process}"), locked(path, 0.2):
        pass


def test_a_lock_is_free_when_its_holder_was_killed(holder: tuple[Path, int]) -> None:
    path, process = holder
    os.kill(process, signal.SIGKILL)
    with locked(path, 10):
        assert path.read_text() == f"process {os.getpid()}\n"


def test_uv_is_told_what_pip_is_told() -> None:
    pip = """\
:env:.index-url='https://mirror.example/simple'
global.cert='/etc/hostname'
global.extra-index-url='file:///a/simple file:///b/simple'
global.find-links='\\n/one\\n/two'
global.index-url='https://other.example/simple'
global.require-virtualenv='true'
install.trusted-host='mirror.example'
"""
    assert uv_settings(pip, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "file:///a/simple file:///b/simple",
        "UV_FIND_LINKS": "/one,/two",
        "UV_INSECURE_HOST": "mirror.example",
        "SSL_CERT_FILE": "/etc/hostname",
    }


def test_what_uv_is_told_itself_counts_more_than_what_pip_is_told() -> None:
    pip = "global.index-url='https://pip.example/simple'\nglobal.proxy='http://pip.example:3128'"
    own = {"UV_INDEX_URL": "https://uv.example/simple", "ALL_PROXY": "http://uv.example:3128"}
    assert set(uv_settings(pip, own)) <= {"SSL_CERT_FILE"}
