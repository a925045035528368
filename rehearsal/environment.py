"""Make `.venv` from the lock: python -m rehearsal.environment NAME, by any Python 3.11 to 3.13.

.venv            symbolic link to the environment of today, switched when that is complete
.venv-<hash>     an environment; the hash is that of all it is made from
.venv-uv-<hash>  uv, which makes environments
.venv-new-*      something unfinished, of a process that was killed or still runs
.venv.lock       who makes one now

An environment has no absolute path in it, so a checkout that is moved or copied has its own still.
Uses the standard library alone, for there is nothing else yet.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rehearsal.locks import Held, locked

ROOT = Path(__file__).resolve().parents[1]
UV_LOCK = Path("roles/superset/files/uv.txt")  # of Superset's machines, and of this one
WAIT_SECONDS = 600
SILENCE_SECONDS = 8  # the longest
# Most of the package `ansible` is collections that nobody uses here. The rest is compiled, for the
# host may forbid Python to do that when it imports (PYTHONDONTWRITEBYTECODE).
NEVER_IMPORTED = r"/ansible_collections/(?!amazon/|ansible/|community/(aws|crypto|postgresql)/)"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"  # Debian's, with what the operator added
# What pip is told → what uv is told. uv reads no settings of pip's, and hosts have these.
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
}


class Failed(Exception):
    """What failed, and what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*command: str | Path, doing: str = "", **environment: str) -> str:
    """Run a command in the checkout and return its output; say what is being done meanwhile.

    Raises Failed with what it said.
    """
    words = [str(word) for word in command]
    # Neither an activated environment nor Python's settings for another one are meant.
    foreign = {"VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PIP_REQUIRE_VIRTUALENV"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    began = time.monotonic()
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=SILENCE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say(f"fleet:   {doing}: {time.monotonic() - began:.0f} s")
    if process.returncode:
        raise Failed(f"`{' '.join(words)}` failed ({process.returncode}):\n{errors or output}")
    return output


def uv_settings(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return uv's environment for what `pip config list` says; uv's own variables go first."""
    known: dict[str, str] = {}
    for wanted in ("global", "install", ":env:"):  # the last one counts
        for line in pip_config.splitlines():
            name, _, value = line.partition("=")
            section, _, option = name.rpartition(".")
            if section == wanted and option in SETTINGS:
                known[option] = " ".join(str(ast.literal_eval(value)).split())
    if "find-links" in known:
        known["find-links"] = known["find-links"].replace(" ", ",")
    settings = {SETTINGS[option]: value for option, value in known.items()}
    for certificates in (environment.get("REQUESTS_CA_BUNDLE"), CERTIFICATES):
        if certificates and Path(certificates).exists():
            settings.setdefault("SSL_CERT_FILE", certificates)
    if "UV_INDEX_URL" in environment:  # an older name
        settings.pop("UV_DEFAULT_INDEX", None)
    return {name: value for name, value in settings.items() if name not in environment}


def make_uv() -> Path:
    """Return the directory of the pinned uv, and of the pip that it came with."""
    name = hashlib.sha256((ROOT / UV_LOCK).read_bytes()).hexdigest()[:12]
    uv = ROOT / f".venv-uv-{name}"
    if not (uv / "bin/uv").exists() or not os.access(uv / "bin/python", os.X_OK):
        shutil.rmtree(uv, ignore_errors=True)
        new = unfinished()
        run(sys.executable, "-m", "venv", new, doing="a place for uv")
        pip = [str(new / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
        run(*pip, "--quiet", "--require-hashes", "--requirement", UV_LOCK, doing="uv")
        new.rename(uv)
    return uv


def make(name: str) -> None:
    """Make the environment `name`, and let `.venv` be it."""
    new, uv = unfinished(), make_uv()
    settings = uv_settings(run(uv / "bin/python", "-m", "pip", "config", "list"), os.environ)
    # Any index may have a package: the hashes say whether it is the right one.
    settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    install = [str(uv / "bin/uv"), "pip", "--quiet", "--no-progress"]
    python = ["--python", str(new / "bin/python")]
    run(uv / "bin/uv", "venv", "--quiet", "--relocatable", "--python", sys.executable, new)
    lock = ["--require-hashes", "requirements.txt"]
    run(*install, "sync", *python, *lock, doing="the packages", **settings)
    # The lock has hatchling, so nothing is fetched for this.
    run(*install, "install", *python, "--no-deps", "--no-build-isolation", "--editable", ".")
    (path_file,) = new.glob("lib/python*/site-packages/_superset_fleet.pth")
    path_file.write_text("../../../../src\n")  # where the checkout is now, not where it was then
    compiler = [str(new / "bin/python"), "-m", "compileall", "-qq", "-j", "0", "-x", NEVER_IMPORTED]
    with contextlib.suppress(Failed):  # some files of packages are no Python of today
        run(*compiler, path_file.parent, doing="compiling them")
    new.rename(ROOT / name)
    switch(name)


def unfinished() -> Path:
    """Return a new directory that the next maker sweeps should this one be killed."""
    path = Path(tempfile.mkdtemp(prefix=".venv-new-", dir=ROOT))
    path.chmod(0o755)
    return path


def switch(name: str) -> None:
    """Let `.venv` be an environment, at once: who starts a program meanwhile has either."""
    link = ROOT / ".venv"
    before = link.readlink().name if link.is_symlink() else ""
    if not before and link.exists():  # of a version that had a directory there
        shutil.rmtree(link)
    new = unfinished() / "link"
    new.symlink_to(name)
    new.replace(link)
    # Programs may run from the one before.
    sweep({name, before})


def sweep(kept: set[str]) -> None:
    """Remove other environments than these, and what is unfinished."""
    for path in ROOT.glob(".venv-*"):
        if path.name not in kept and not path.name.startswith(".venv-uv-"):
            shutil.rmtree(path, ignore_errors=True)


def waits(holder: str) -> None:
    say(f"fleet: {holder} makes .venv, waiting for it")


def main(name: str) -> None:
    """Make the environment unless another process just did. Exits with 1 and what failed."""
    try:
        with locked(ROOT / ".venv.lock", WAIT_SECONDS, waits):
            if os.access(ROOT / name / "bin/python", os.X_OK):
                switch(name)
                return
            began = time.monotonic()
            version = ".".join(map(str, sys.version_info[:3]))
            say(f"fleet: making .venv with Python {version} from requirements.txt, half a minute")
            shutil.rmtree(ROOT / name, ignore_errors=True)
            sweep({(ROOT / ".venv").readlink().name if (ROOT / ".venv").is_symlink() else ""})
            make(name)
            say(f"fleet: .venv is made, {time.monotonic() - began:.0f} s")
    except Held as holder:
        sys.exit(f"fleet: {holder} makes .venv and is not ready after {WAIT_SECONDS} s")
    except Failed as error:
        sys.exit(f"fleet: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1])
