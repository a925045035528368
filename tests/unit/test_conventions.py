"""The conventions that a machine can hold."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) or {}


def options(role: str) -> dict[str, dict[str, Any]]:
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    found: dict[str, dict[str, Any]] = specs["argument_specs"]["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_every_input_is_either_specified_with_a_default_or_required(role: str) -> None:
    defaults = load(ROOT / "roles" / role / "defaults" / "main.yml")
    optional = {name for name, option in options(role).items() if not option.get("required")}
    assert set(defaults) == optional


@pytest.mark.parametrize("role", ROLES)
def test_every_input_says_what_it_means_and_of_what_type_it_is(role: str) -> None:
    bare = [
        name
        for name, option in options(role).items()
        if not option.get("description") or not option.get("type")
    ]
    assert bare == []


@pytest.mark.parametrize("role", ROLES)
def test_every_input_begins_with_a_word_of_the_fleet(role: str) -> None:
    words = ("haproxy_", "postgres_", "redis_", "superset_", "warehouse_", f"{role}_")
    assert [name for name in options(role) if not name.startswith(words)] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_part_for_the_image_and_a_part_for_the_machine(role: str) -> None:
    tasks = {path.name for path in (ROOT / "roles" / role / "tasks").iterdir()}
    # What is only installed, as a package, has no part for the machine.
    assert {"install.yml", "main.yml"} <= tasks or role == "fleet_package"


@pytest.mark.parametrize("role", ROLES)
def test_a_machine_that_is_taken_at_its_word_lacks_no_change_of_a_variable(role: str) -> None:
    """What an install part reads is in the fingerprint of what is installed."""
    variables = load(ROOT / "inventory" / "group_vars" / "all" / "fleet.yml")
    of_install = re.compile(variables["fleet_install_variables"])
    directory = ROOT / "roles" / role
    path = directory / "tasks" / "main.yml"
    main = path.read_text() if path.exists() else ""
    files = [*(directory / "tasks").iterdir(), *directory.glob("templates/*")]
    # Of a template what stands in Jinja's brackets, and no comment.
    text = "".join(
        " ".join(re.findall(r"{[{%].*?[%}]}", path.read_text(), re.DOTALL))
        if path.suffix == ".j2"
        else path.read_text()
        for path in files
        if path.name != "main.yml" and path.name not in main
    )
    read = {name for name in options(role) if re.search(rf"\b{name}\b", text)}
    assert {name for name in read if not of_install.match(name)} == set()


def test_what_hardens_services_is_on_each_machine_and_in_the_image_before_any_service() -> None:
    variables = load(ROOT / "inventory" / "group_vars" / "all" / "fleet.yml")
    assert variables["fleet_image_roles"][0] == "common"
    for roles in variables["fleet_roles"].values():
        assert re.findall(r"\w+", str(roles))[0] == "common"


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"default"}))
def test_every_scenario_is_named_after_a_playbook(scenario: str) -> None:
    own_converge = ROOT / "molecule" / scenario / "converge.yml"
    assert own_converge.is_file() or (ROOT / "playbooks" / f"{scenario}.yml").is_file()


@pytest.mark.parametrize(
    "tests", sorted((ROOT / "molecule").glob("*/tests")), ids=lambda path: path.parent.name
)
def test_every_scenario_s_tests_are_run(tests: Path) -> None:
    assert tests.parent.name in SCENARIOS


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_scenario_of_its_name(role: str) -> None:
    assert role in SCENARIOS


@pytest.mark.parametrize(
    "module", sorted((ROOT / "library").glob("*.py")), ids=lambda path: path.stem
)
def test_every_module_says_what_it_does_in_words_that_ansible_can_read(module: Path) -> None:
    said = {
        node.targets[0].id: yaml.safe_load(str(node.value.value))
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    }
    assert said["DOCUMENTATION"]["module"] == module.stem
    assert all(option["description"] for option in said["DOCUMENTATION"]["options"].values())
    assert {"EXAMPLES", "RETURN"} <= said.keys()


def test_only_the_topology_file_reads_the_inventory() -> None:
    reads_inventory = re.compile(r"\b(groups|hostvars)\s*[\[.]")
    files = (
        path
        for tree in ("roles", "playbooks", "inventory")
        for path in (ROOT / tree).rglob("*")
        if path.suffix in {".yml", ".j2"}
    )
    assert [path for path in files if reads_inventory.search(path.read_text())] == [
        ROOT / "inventory/group_vars/all/topology.yml"
    ]


def test_secrets_are_named_after_the_variable_that_they_fill() -> None:
    given = re.compile(r"^(\w+): .*\bvault_(\w+)", re.MULTILINE)
    for path in (ROOT / "inventory" / "group_vars" / "all").glob("*.yml"):
        assert [pair for pair in given.findall(path.read_text()) if pair[0] != pair[1]] == []


def test_no_image_is_made_anew_because_a_machine_came_or_went() -> None:
    variables = ROOT / "inventory" / "group_vars" / "all"
    of_image = re.compile(
        yaml.safe_load((variables / "fleet.yml").read_text())["fleet_install_variables"]
    )
    known = yaml.safe_load((variables / "topology.yml").read_text())
    assert "scheduler_machines" in known
    assert [name for name in known if of_image.match(name)] == []
    assert of_image.match("superset_guard_enabled")
