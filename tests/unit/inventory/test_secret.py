"""The lookup plugin `secret`: every secret of the fleet by one call, and by name."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.plugins.loader import init_plugin_loader, lookup_loader

from superset_fleet.control import parameters as secrets
from superset_fleet.control.ask import ROOT
from tests.support.aws_server import Aws, serve


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    init_plugin_loader()
    lookup_loader.add_directory(str(ROOT / "inventory" / "plugins"))


@pytest.fixture
def aws() -> Iterator[Aws]:
    with serve() as server:
        yield server


@pytest.fixture
def variables(aws: Aws, tmp_path: Path) -> dict[str, Any]:
    """What a task on a cloud's machine knows."""
    return {
        "fleet_name": "superset",
        "fleet_region": "us-east-1",
        "fleet_aws_config_file": str(aws.write_config(tmp_path / "aws.ini")),
    }


def add(aws: Aws, name: str, value: str, fleet: str = "superset") -> None:
    aws.client("ssm").put_parameter(
        Name=f"/superset-fleet/{fleet}/secrets/{name}", Value=value, Type="SecureString"
    )


def lookup(variables: dict[str, Any], *terms: str) -> list[str]:
    values: list[str] = lookup_loader.get("secret").run(list(terms), variables=variables)
    return values


def test_a_secret_by_name(aws: Aws, variables: dict[str, Any]) -> None:
    add(aws, "redis_cache_password", "one")
    add(aws, "redis_cache_password", "two", fleet="another")
    assert lookup(variables, "redis_cache_password") == ["one"]


def test_all_secrets_are_read_at_once(aws: Aws, variables: dict[str, Any]) -> None:
    for number in range(12):
        add(aws, f"secret_{number}", f"value {number}")
    aws.calls.clear()
    assert lookup(variables, "secret_0", "secret_11") == ["value 0", "value 11"]
    assert lookup(variables, "secret_5") == ["value 5"]
    assert aws.calls == ["GetParametersByPath"] * 2  # a page holds ten


def test_a_secret_that_was_made_meanwhile_is_found(aws: Aws, variables: dict[str, Any]) -> None:
    add(aws, "one", "1")
    assert lookup(variables, "one") == ["1"]
    add(aws, "two", "2")
    assert lookup(variables, "two") == ["2"]


def test_what_a_forked_process_reads_the_others_know(aws: Aws, variables: dict[str, Any]) -> None:
    add(aws, "one", "1")
    child = multiprocessing.get_context("fork").Process(target=lookup, args=(variables, "one"))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert lookup(variables, "one") == ["1"]
    assert aws.calls.count("GetParametersByPath") == 1


def test_more_than_the_memory_holds_is_read_by_each(
    aws: Aws, variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_memory", mmap.mmap(-1, 4096))
    for number in range(2):
        add(aws, f"secret_{number}", str(number) * 3000)
    assert lookup(variables, "secret_0") == ["0" * 3000]
    assert lookup(variables, "secret_1") == ["1" * 3000]
    assert aws.calls.count("GetParametersByPath") == 2


def test_a_missing_secret_is_named_with_its_remedy(variables: dict[str, Any]) -> None:
    with pytest.raises(AnsibleError) as caught:
        lookup(variables, "redis_cache_password")
    assert str(caught.value) == (
        "region us-east-1 has no parameter /superset-fleet/superset/secrets/redis_cache_password: "
        "run playbooks/provision.yml"
    )


def test_a_missing_config_file_is_named_with_its_remedy(
    variables: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "aws.ini").unlink()
    with pytest.raises(AnsibleError, match=r"the local cloud is not up: run \./fleet up"):
        lookup(variables, "redis_cache_password")


def test_a_missing_variable_is_an_error(variables: dict[str, Any]) -> None:
    del variables["fleet_name"]
    with pytest.raises(AnsibleError, match="fleet"):
        lookup(variables, "redis_cache_password")
