"""The fleet's secrets, read from the parameter store once for a whole run of Ansible.

Ansible forks a process for every task on every machine, so what one of them reads is lost to the
others. Here it is left in anonymous memory, which processes share that were forked after this
module was imported (the inventory plugin does): never in a file, and gone with the run.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

from ..cloud import client as aws
from ..cloud.parameters import secrets_path

_memory = mmap.mmap(-1, 1 << 18)  # bytes; what does not fit is read by each process for itself
_lock = multiprocessing.get_context("fork").Lock()
_PATIENCE = 60  # seconds; longer than a read takes, so whoever holds the lock then has died


def read_secrets(
    fleet: str, region: str, config_file: str | None, wanted: Iterable[str]
) -> dict[str, str]:
    """Return the secrets of a fleet by name: those below its `secrets_path`.

    AWS is asked when one of the wanted names is not among those that were read before.

    Raises AwsError.
    """
    key = json.dumps([fleet, region, config_file])
    held = _lock.acquire(timeout=_PATIENCE)
    try:
        shared = _load()
        if key not in shared or not shared[key].keys() >= set(wanted):
            session = aws.session(Path(config_file) if config_file else None)
            with aws.explained(region):
                shared[key] = dict(aws.parameters(session, region, secrets_path(fleet)))
            _save(shared)
        return shared[key]
    finally:
        if held:
            _lock.release()


def _load() -> dict[str, dict[str, str]]:
    _memory.seek(0)
    line = _memory.readline().rstrip(b"\0")
    return json.loads(line) if line else {}


def _save(shared: dict[str, dict[str, str]]) -> None:
    line = json.dumps(shared).encode() + b"\n"
    if len(line) <= len(_memory):
        _memory.seek(0)
        _memory.write(line)
