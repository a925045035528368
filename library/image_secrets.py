#!/usr/bin/python
"""Ansible module: what is about to become an image holds no key, password or token."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_secrets
short_description: Fail where a file tree holds what must not be in an image
description:
  - Looks through all files below O(root) and fails with the path and the kind of each finding,
    never with what was found.
  - Everywhere it looks for the values of O(secrets). Outside of packages, which are public and
    have keys in their tests, also for anything that looks like a private key or a token.
  - Finds files that belong to one machine or one person, such as host keys and histories, by name.
  - Other file systems that are mounted below O(root) are no part of the image and are passed over.
  - Changes nothing, so it runs in check mode too.
options:
  root:
    description: Directory to look through.
    type: path
    default: /
  secrets:
    description:
      - The fleet's own secrets, value by name. Empty values are passed over.
      - One of fewer than 8 bytes is found in files that have nothing to do with it. It is not
        looked for, and a warning says so.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Refuse an image with secrets
  image_secrets:
    secrets:
      redis_cache_password: "{{ redis_cache_password }}"
"""

RETURN = r"""
findings:
  description: What must not be in an image.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: Where it is.
      type: str
      sample: /root/.pgpass
    kind:
      description: What it is.
      type: str
      sample: passwords of PostgreSQL
files:
  description: Number of files that were looked at.
  returned: always
  type: int
  sample: 61234
"""

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

LEAST_BYTES = 8  # of a secret's value that is looked for

# Files that have no place in an image, unless they are empty. A * stands for / too.
NAMES = {
    "etc/fleet/aws.ini": "credentials of one machine",
    "etc/machine-id": "identity of one machine",
    "etc/ssh/ssh_host_*": "host key",
    "etc/superset/facts.json": "the fleet's secrets",
    "var/lib/cloud/*": "what cloud-init knows of one machine",
    "var/lib/dbus/machine-id": "identity of one machine",
    "var/lib/systemd/credential.secret": "key of one machine",
    "*.aws/credentials": "credentials of AWS",
    "*.docker/config.json": "credentials of registries",
    "*.git-credentials": "passwords of git",
    "*.netrc": "passwords of hosts",
    "*.pgpass": "passwords of PostgreSQL",
    "*.ssh/authorized_keys": "key that may log in",
    "*.ssh/id_*": "ssh key",
    "root/.*_history": "history",
    "home/*/.*_history": "history",
}
# In texts of any file.
PATTERNS = {
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+(?:[\w-]+: .*\s+)*[A-Za-z0-9+/=\s]{60}": (
        "private key"
    ),
    rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b": "access key of AWS",
    rb"(?i)\baws_(?:secret_access_key|session_token)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9+/=]{16}": (
        "credentials of AWS"
    ),
    rb"\bgh[oprsu]_[A-Za-z0-9]{36}\b": "token of GitHub",
    rb"\bxox[abeprs]-[0-9A-Za-z-]{10,}": "token of Slack",
    rb"(?m)^[^:\s]+:\$[^:]+:\d*:\d*:\d*:": "password of a user",  # as in /etc/shadow
}
# What packages brought. People's own programs are in usr/local.
PACKAGES = re.compile(r"usr/(?!local/)|.*/(?:site|dist)-packages/|var/lib/(?:apt|dpkg)/")


class Finding(NamedTuple):
    """What must not be in an image, without its value."""

    path: str
    kind: str


def files(root: Path) -> Iterator[Path]:
    """Yield the regular files of one file system that have something in them."""
    device = root.stat().st_dev
    for directory, folders, names in os.walk(root):
        here = Path(directory)
        # Of directories only: an overlay's files have the devices of its layers.
        folders[:] = [name for name in folders if (here / name).lstat().st_dev == device]
        for name in names:
            path = here / name
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                yield path


def named(path: str) -> str:
    """Return what a file is by its path below the root, or ''."""
    return next((kind for name, kind in NAMES.items() if fnmatchcase(path, name)), "")


def kinds(path: str, text: mmap.mmap, secrets: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the kind of each secret in the text of a file, whose path is below the root."""
    yield from (f"value of {name}" for name, value in secrets.items() if text.find(value) >= 0)
    if not PACKAGES.match(path):
        yield from (kind for pattern, kind in PATTERNS.items() if re.search(pattern, text))


def findings(root: Path, secrets: Mapping[str, bytes]) -> tuple[list[Finding], int]:
    """Return what must not be in an image of this tree, and how many files were looked at."""
    found, count = [], 0
    for path in files(root):
        below = str(path.relative_to(root))
        count += 1
        if kind := named(below):
            fresh = below == "etc/machine-id" and path.read_bytes().strip() == b"uninitialized"
            if not fresh:
                found.append(Finding(str(path), kind))
            continue
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
                found += [Finding(str(path), kind) for kind in kinds(below, text, secrets)]
        except FileNotFoundError:
            continue  # a log that was rotated away
    return sorted(found), count


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    secrets = {}
    for name, value in module.params["secrets"].items():
        if len(str(value).encode()) >= LEAST_BYTES:
            secrets[name] = str(value).strip().encode()
        elif value:
            module.warn(f"{name} has fewer than {LEAST_BYTES} bytes and is not looked for")
    try:
        found, count = findings(Path(module.params["root"]), secrets)
    except OSError as error:
        module.fail_json(msg=f"look for secrets: {error}", findings=[], files=0)
    result = {"findings": [one._asdict() for one in found], "files": count}
    if found:
        told = ", ".join(f"{one.path} ({one.kind})" for one in found)
        module.fail_json(
            msg=f"this must not be in an image: {told}. Let the role that leaves it write it when "
            "a machine is configured, or let playbooks/tasks/image/clean.yml remove it",
            **result,
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
