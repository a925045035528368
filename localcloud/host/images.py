"""Images: stacks of layers (directories) that machines are mounted on.

images/
  layers/<layer>/       a directory tree; the lowest is a Debian, others are the upper directories
                        of overlays, with their whiteouts
  <image id>.json       what the API knows of an image, and its layers, the top one first
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from localcloud.cloud import Cloud, CloudError, remove_tree, run, tail, write

SUITE = "bookworm"
BASE_NAME = "debian-12"
# What Debian's own cloud images carry and configuration management counts on.
PACKAGES = (
    "systemd,systemd-sysv,dbus,iproute2,iputils-ping,netbase,openssh-server,"
    "python3,python3-apt,sudo,ca-certificates,curl,gpg,nftables,procps,less"
)
CUSTOMIZE = Path(__file__).with_name("base.sh")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass
class Image:
    id: str
    name: str
    layers: list[str]  # the top one first
    description: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.created).replace(tzinfo=None)


class Images:
    """The images of one cloud, on disk and in memory."""

    def __init__(self, cloud: Cloud) -> None:
        self.directory = cloud.images
        self.layers = cloud.images / "layers"
        self.lock = threading.RLock()
        self.new: set[str] = set()  # complete layers of images that are not saved yet
        self.layers.mkdir(parents=True, exist_ok=True)
        self.known = {
            image.id: image
            for path in self.directory.glob("ami-*.json")
            for image in [Image(**json.loads(path.read_text()))]
        }

    def paths(self, layers: Iterable[str]) -> list[Path]:
        return [self.layers / layer for layer in layers]

    def save(self, image: Image) -> None:
        with self.lock:
            self.known[image.id] = image
            self.new -= set(image.layers)
            write(self.directory / f"{image.id}.json", json.dumps(asdict(image), indent=2) + "\n")

    def remove(self, image_id: str) -> None:
        with self.lock:
            self.known.pop(image_id, None)
            (self.directory / f"{image_id}.json").unlink(missing_ok=True)

    def add_layer(self, make: Callable[[Path], object]) -> str:
        """Let `make` fill the path of a new layer, and return the layer's name.

        It appears under its name only when complete; what a crash leaves is swept later.
        """
        layer = uuid.uuid4().hex[:12]
        unfinished = self.layers / f"new-{layer}"
        make(unfinished)
        with self.lock:
            self.new.add(layer)
            unfinished.rename(self.layers / layer)
        return layer

    def sweep(self, in_use: Iterable[str] = (), unfinished: bool = False) -> None:
        """Remove the layers that no image and none of `in_use` needs."""
        with self.lock:
            needed = {layer for image in self.known.values() for layer in image.layers}
            needed |= self.new | {*in_use}
            for path in self.layers.iterdir():
                if path.name.startswith("new-") and not unfinished:
                    continue
                if path.name not in needed:
                    remove_tree(path)

    def ensure_base(self, cloud: Cloud, progress: Callable[[str], None]) -> Image:
        """Return the base image; make it first when there is none for the inputs of today."""
        inputs = host_files()
        text = json.dumps([SUITE, PACKAGES, CUSTOMIZE.read_text(), inputs, mirrors()])
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        image_id = f"ami-{fingerprint[:17]}"
        if image_id not in self.known:
            progress(f"base image {image_id}: making it with mmdebstrap, about a minute")
            layer = self.add_layer(lambda path: build_base(cloud, path, inputs))
            tags = {"name": BASE_NAME, "Name": BASE_NAME}
            self.save(Image(image_id, BASE_NAME, [layer], "Debian 12, the base image", tags=tags))
        for old in list(self.known.values()):  # of other inputs
            if old.tags.get("name") == BASE_NAME and old.id != image_id:
                self.remove(old.id)
        return self.known[image_id]


def build_base(cloud: Cloud, target: Path, files: dict[str, str]) -> None:
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
            raise CloudError(f"mmdebstrap failed; the end of {log}:\n{tail(log)}")
    finally:
        remove_tree(extra)


def mirrors() -> list[str]:
    """The host's own sources of this Debian release, or none for the distribution's default."""
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


APT_SETTINGS = "etc/apt/apt.conf.d/80host"


def host_files() -> dict[str, str]:
    """What guests take over from the host, as files of the guest: path → text.

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
    """The host's apt settings on how to fetch: proxies, certificates, date checks."""
    wanted = re.compile(r'Acquire::(https?::|Check-|Retries|ForceIPv[46])\S* "[^"]*";')
    lines = [line for line in run("apt-config", "dump").splitlines() if wanted.fullmatch(line)]
    return "".join(f"{line}\n" for line in lines if not line.endswith('"";'))


def pip_settings() -> dict[str, str]:
    """The host's pip settings of indexes that a guest can reach."""
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
    """The certificates that this host's administrator added to those of the distribution."""
    found = []
    for path in sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt")):
        with contextlib.suppress(UnicodeDecodeError):
            found.append(path.read_text())
    return found
