"""The base image: a Debian with the settings that hold on this host."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from shlex import quote

from localcloud.cloud import Cloud, CloudError
from localcloud.host.system import remove_tree, run, tail

SUITE = "bookworm"
# What Debian's own cloud images carry and configuration management counts on.
PACKAGES = (
    "systemd,systemd-sysv,dbus,iproute2,iputils-ping,netbase,openssh-server,"
    "python3,python3-apt,sudo,ca-certificates,curl,gpg,nftables,procps,less"
)
CUSTOMIZE = Path(__file__).with_name("base.sh")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
APT_SETTINGS = "etc/apt/apt.conf.d/80host"  # a file of the guest


def fingerprint(files: dict[str, str]) -> str:
    """Return a fingerprint of everything that the base image is made from.

    `files`: those of `host_files`.
    """
    text = json.dumps([SUITE, PACKAGES, CUSTOMIZE.read_text(), files, mirrors()])
    return hashlib.sha256(text.encode()).hexdigest()


def build(cloud: Cloud, target: Path, files: dict[str, str]) -> None:
    """Make the root file system of a Debian in `target`, with the host's settings `files`."""
    extra = target.with_name(f"{target.name}-files")
    log = cloud.state / "mmdebstrap.log"
    try:
        for name, text in files.items():
            path = extra / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        extra.mkdir(parents=True, exist_ok=True)
        apt_settings = extra / APT_SETTINGS
        command = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            *([f"--aptopt={apt_settings}"] if apt_settings.exists() else []),
            f'--customize-hook=sh {quote(str(CUSTOMIZE))} "$1" {quote(str(extra))}',
            SUITE,
            str(target),
            *mirrors(),
        ]
        with log.open("w") as output:
            done = subprocess.run(
                command,
                env={**cloud.environment(), "TMPDIR": str(target.parent)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise CloudError(f"mmdebstrap failed; the last lines of {log}:\n{tail(log)}")
    finally:
        remove_tree(extra)


def mirrors() -> list[str]:
    """Return the host's own apt sources of this release; none = the distribution's default."""
    apt = Path("/etc/apt")
    found = []
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text()
        if SUITE in text and re.search(r"://\S+/debian(-security)?/?\s", text):
            found.append(str(path))
    return found


def reaches_guests(name: str, value: str) -> bool:
    """Whether an environment variable of the host is a package setting that holds in a guest."""
    if re.fullmatch(r"(https?|no|all|ftp)_proxy", name, re.IGNORECASE):
        return True
    return bool(re.fullmatch(r"(PIP|UV)_\w*(INDEX|_HOST)\w*", name)) and "://" in value.replace(
        "file://", ""
    )


def host_files() -> dict[str, str]:
    """Return what guests take over from the host, as files of the guest: path → text.

    Package settings and certificates: without them nothing can be installed where the way out is
    a proxy or a mirror. Paths of this host (find-links, file: indexes) mean nothing to a guest.
    """
    files = {}
    if apt := apt_settings():
        files[APT_SETTINGS] = apt
    for number, certificate in enumerate(certificates(), start=1):
        files[f"usr/local/share/ca-certificates/host-{number}.crt"] = certificate
    bundle = str(HOST_BUNDLE)
    variables = {
        "SSL_CERT_FILE": bundle,
        "PIP_CERT": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        **{name: value for name, value in os.environ.items() if reaches_guests(name, value)},
    }
    files["etc/environment"] = "".join(f'{name}="{value}"\n' for name, value in variables.items())
    files["etc/sudoers.d/host"] = f'Defaults env_keep += "{" ".join(variables)}"\n'
    pip = {"cert": bundle, **pip_settings()}
    files["etc/pip.conf"] = "[global]\n" + "".join(
        f"{key} = {value}\n" for key, value in pip.items()
    )
    files["etc/uv/uv.toml"] = "native-tls = true\n"
    return files


def apt_settings() -> str:
    """Return the host's apt settings on how to fetch: proxies, certificates, date checks."""
    wanted = re.compile(r'Acquire::(https?::|Check-|Retries|ForceIPv[46])\S* "[^"]*";')
    lines = [line for line in run("apt-config", "dump").splitlines() if wanted.fullmatch(line)]
    return "".join(f"{line}\n" for line in lines if not line.endswith('"";'))


def pip_settings() -> dict[str, str]:
    """Return the host's pip settings of indexes that a guest can reach."""
    found = {}
    paths = ["/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf"]
    pattern = re.compile(r"^(index-url|extra-index-url|trusted-host|proxy)\s*[=:]\s*(.+)$", re.M)
    for path in [Path(path).expanduser() for path in paths]:
        if path.is_file():
            for key, value in pattern.findall(path.read_text()):
                if not re.search(r"file:|localhost|127\.", value):
                    found[key] = value
    return found


def certificates() -> list[str]:
    """Return the certificates that the host's administrator added to those of the distribution."""
    found = []
    for path in sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt")):
        with contextlib.suppress(UnicodeDecodeError):
            found.append(path.read_text())
    return found
