"""The conventions that a machine can hold."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from superset_fleet.cloud import parameters
from superset_fleet.roles import DRAINABLE, DRAINING, SCALED
from superset_fleet.roles import ROLES as fleet_roles
from superset_fleet.state.jobs import BROWSER_QUEUES, QUERY_QUEUES, QUEUES

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
GROUP_VARS = ROOT / "inventory" / "group_vars" / "all"
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) or {}


def specs(role: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the options of each entry point of a role."""
    found = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]
    return {entry: spec["options"] for entry, spec in found.items()}


def options(role: str) -> dict[str, dict[str, Any]]:
    return {name: option for spec in specs(role).values() for name, option in spec.items()}


def install_inputs() -> dict[str, dict[str, Any]]:
    """Return what the install parts of all roles read."""
    return {
        name: option for role in ROLES for name, option in specs(role).get("install", {}).items()
    }


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


def said(path: Path) -> str:
    """Return what a file reads: of a template what stands in Jinja's brackets, and no comment."""
    text = path.read_text()
    return " ".join(re.findall(r"{[{%].*?[%}]}", text, re.DOTALL)) if path.suffix == ".j2" else text


@pytest.mark.parametrize("role", ROLES)
def test_the_inputs_of_an_entry_point_are_the_variables_that_its_part_reads(role: str) -> None:
    """So what is installed is known by its fingerprint, which is made of the inputs of install."""
    directory = ROOT / "roles" / role
    path = directory / "tasks" / "main.yml"
    main = path.read_text() if path.exists() else ""
    files = [*(directory / "tasks").iterdir(), *directory.glob("templates/*")]
    # What main.yml names belongs to it, all else to install.yml. What defaults and vars read they
    # read for one of them.
    parts = {
        "install": [file for file in files if file.name != "main.yml" and file.name not in main],
        "main": [file for file in files if file.name == "main.yml" or file.name in main],
    }
    beside = "".join(
        said(file)
        for file in (directory / "defaults/main.yml", directory / "vars/main.yml")
        if file.exists()
    )
    beside = re.sub(r"(?m)^\w+:", "", beside)
    for entry, part in parts.items():
        text = "".join(map(said, part))
        read = {name for name in options(role) if re.search(rf"\b{name}\b", text)}
        inputs = set(specs(role).get(entry, {}))
        assert read <= inputs
        assert all(re.search(rf"\b{name}\b", beside) for name in inputs - read)


def test_unit_tests_are_in_directories_named_after_what_they_test() -> None:
    names = [path.parent.name for path in (ROOT / "tests" / "unit").glob("*/__init__.py")]
    there = [ROOT, ROOT / "src" / "superset_fleet"]
    assert [name for name in names if not any((tree / name).is_dir() for tree in there)] == []
    assert "guard" in names


def test_what_hardens_services_is_on_each_machine_and_in_the_image_before_any_service() -> None:
    assert load(GROUP_VARS / "fleet" / "images.yml")["fleet_image_roles"][0] == "common"
    for roles in load(GROUP_VARS / "fleet" / "groups.yml")["fleet_roles"].values():
        assert re.findall(r"\w+", str(roles))[0] == "common"


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"default"}))
def test_a_scenario_converges_by_the_playbook_of_its_name_or_else_by_one_of_its_own(
    scenario: str,
) -> None:
    directory = ROOT / "molecule" / scenario
    playbooks = load(directory / "molecule.yml").get("ansible", {}).get("playbooks", {})
    named = (ROOT / "playbooks" / f"{scenario}.yml").is_file()
    assert playbooks == ({} if named else {"converge": "converge.yml"})
    assert (directory / "converge.yml").is_file() != named


def test_the_readme_of_the_scenarios_lists_each_with_its_kind() -> None:
    kinds = {name: "role" if name in ROLES else "story" for name in SCENARIOS}
    kinds["default"] = "fleet"
    text = (ROOT / "molecule" / "README.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| \S", text, re.MULTILINE)
    assert sorted(listed) == sorted(kinds.items())


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


def home(variable: str) -> str:
    """Return the role that a variable's name begins with; '' where that is none."""
    return max((role for role in ROLES if variable.startswith(f"{role}_")), key=len, default="")


def test_the_values_of_a_role_have_one_file_which_has_no_others() -> None:
    files = {path: load(path) for path in GROUP_VARS.rglob("*.yml") if path.stem != "topology"}
    astray = [
        f"{path.stem}: {name}"
        for path, variables in files.items()
        for name in variables
        if home(name) != (path.stem if path.stem in ROLES else "")
    ]
    assert astray == []


def test_only_the_topology_file_reads_the_inventory() -> None:
    reads_inventory = re.compile(r"\b(groups|hostvars)\s*[\[.]")
    files = (
        path
        for tree in ("roles", "playbooks", "inventory")
        for path in (ROOT / tree).rglob("*")
        if path.suffix in {".yml", ".j2"}
    )
    assert [path for path in files if reads_inventory.search(path.read_text())] == [
        GROUP_VARS / "topology.yml"
    ]


def test_the_fleet_s_worker_groups_take_from_every_queue_and_from_no_other() -> None:
    groups = load(GROUP_VARS / "fleet" / "groups.yml")["fleet_groups"].values()
    taken = load(GROUP_VARS / "celery_worker.yml")["celery_worker_queues"]
    assert {*taken, *(name for group in groups for name in group.get("queues", ()))} == {*QUEUES}
    assert {*QUERY_QUEUES, *BROWSER_QUEUES} < {*QUEUES}


def test_plays_and_package_agree_on_where_parameters_are() -> None:
    said = load(GROUP_VARS / "fleet" / "cloud.yml")["fleet_parameters"]
    assert {kind: path.replace("{{ fleet_name }}", "mine") for kind, path in said.items()} == {
        "facts": parameters.facts_path("mine"),
        "secrets": parameters.secrets_path("mine"),
    }


def test_machines_of_a_scaling_role_start_the_unit_of_that_role() -> None:
    units = load(ROOT / "roles" / "agent" / "defaults" / "main.yml")["agent_units"]
    assert list(units) == [*SCALED]
    for role, started in units.items():
        assert re.search(rf"\b{fleet_roles[role].unit}\b", str(started))


def test_the_file_that_drains_is_where_the_units_look() -> None:
    for role in DRAINABLE:
        unit = fleet_roles[role].unit
        (template,) = (ROOT / "roles" / role / "templates").glob(f"{unit}.service.j2")
        assert f"\nRuntimeDirectory={unit}\n" in template.read_text()
    web = ROOT / "roles/superset_web/templates/superset-web.service.j2"
    assert f"touch %t/superset-web/{DRAINING}; " in web.read_text()


def test_secrets_are_named_after_the_variable_that_they_fill() -> None:
    given = re.compile(r"^(\w+): .*\bvault_(\w+)", re.MULTILINE)
    for path in GROUP_VARS.rglob("*.yml"):
        assert [pair for pair in given.findall(path.read_text()) if pair[0] != pair[1]] == []


def test_the_number_of_a_port_has_one_home() -> None:
    text = "".join(
        path.read_text()
        for tree in ("roles", "playbooks", "inventory")
        for path in (ROOT / tree).rglob("*")
        if path.suffix in {".yml", ".j2"}
    )
    numbers = re.findall(r"^\w+_port: (\d+)$", text, re.MULTILINE)
    assert len(numbers) > 5
    assert [number for number in numbers if len(re.findall(rf"\b{number}\b", text)) > 1] == []


def read_by(names: set[str]) -> set[str]:
    """Return variables and all that their values in group_vars and defaults are made of."""
    files = [*GROUP_VARS.rglob("*.yml"), *(ROOT / "roles").glob("*/defaults/main.yml")]
    values = {name: str(value) for path in files for name, value in load(path).items()}
    known, wanted = set[str](), set(names)
    while wanted:
        known |= wanted
        words = {word for name in wanted for word in re.findall(r"\w+", values.get(name, ""))}
        wanted = (words & values.keys()) - known
    return known


def test_no_image_is_made_anew_because_a_machine_came_or_went() -> None:
    topology = load(GROUP_VARS / "topology.yml")
    assert "scheduler_machines" in topology
    assert read_by({*install_inputs()}) & {*topology} == set()
    assert read_by({"superset_url"}) & {*topology} == {"haproxy_address"}
    assert "superset_guard_enabled" in install_inputs()


def test_no_secret_is_an_input_of_what_an_image_has() -> None:
    assert [name for name, option in install_inputs().items() if option.get("no_log")] == []


def test_all_python_is_in_files_that_linters_take_for_python() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = (ROOT / name for name in tracked.stdout.decode().split("\0") if name)
    programs = [
        path
        for path in names
        if path.is_file() and re.match(rb"#!.*\bpython", path.read_bytes().partition(b"\n")[0])
    ]
    assert [path for path in programs if path.suffix != ".py"] == []
    assert ROOT / "roles/haproxy/files/haproxy_join.py" in programs


@pytest.mark.parametrize(
    "template", sorted((ROOT / "roles").glob("*/templates/*.py.j2")), ids=lambda path: path.stem
)
def test_a_template_of_python_has_values_and_nothing_that_a_linter_would_miss(
    template: Path,
) -> None:
    text = re.sub(r"{%.*?%}", "", re.sub(r"{{.*?}}", "0", template.read_text()))
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        # Superset's own way to give Celery's settings.
        assert not isinstance(node, ast.ClassDef) or (
            node.name == "CeleryConfig" and all(isinstance(line, ast.Assign) for line in node.body)
        )
