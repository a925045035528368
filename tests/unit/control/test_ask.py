"""Asking Ansible, from wherever the asker was started."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from superset_fleet.control.ask import template


@pytest.fixture
def nonblocking_input() -> Iterator[None]:
    """A standard input as an ssh that shares it leaves it, or a Node.js that started us."""
    ours, end, writer = os.dup(0), *os.pipe()
    os.dup2(end, 0)
    os.set_blocking(0, False)
    yield
    os.dup2(ours, 0)
    for each in (ours, end, writer):
        os.close(each)


@pytest.mark.usefixtures("nonblocking_input")
def test_ansible_answers_where_the_standard_input_is_non_blocking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {here: {ansible_connection: local}}}")
    monkeypatch.setenv("ANSIBLE_INVENTORY", str(inventory))
    assert template("here", "1 + 1") == {"here": 2}
