"""The lookups `fingerprints` and `wheel`: what has to be installed anew, and what has not."""

from pathlib import Path
from typing import Any

import fingerprints
import pytest
import wheel
import yaml
from ansible import constants
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, lookup_loader
from ansible.template import Templar, trust_as_template


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role with two files."""
    path = tmp_path / "cook"
    (path / "tasks").mkdir(parents=True)
    (path / "tasks" / "install.yml").write_text("- boil: water")
    (path / "files").mkdir()
    (path / "files" / "pot").write_text("steel")
    return path


def test_nothing_changed_is_the_same_fingerprint(role: Path) -> None:
    assert fingerprints.fingerprint(role, {"a": 1}) == fingerprints.fingerprint(role, {"a": 1})


def test_a_change_of_a_file_of_its_name_and_of_an_input_is_another(role: Path) -> None:
    seen = {fingerprints.fingerprint(role, {"a": 1}), fingerprints.fingerprint(role, {"a": 2})}
    (role / "files" / "pot").write_text("iron")
    seen.add(fingerprints.fingerprint(role, {"a": 1}))
    (role / "files" / "pot").rename(role / "files" / "pan")
    seen.add(fingerprints.fingerprint(role, {"a": 1}))
    assert len(seen) == 4


SPECS = {
    "install": {"options": {"cook_dish": {"type": "str"}, "cook_for": {"type": "int"}}},
    "main": {"options": {"cook_name": {"type": "str"}}},
}


@pytest.fixture(scope="module")
def plugin() -> None:
    init_plugin_loader()
    lookup_loader.add_directory(str(Path(fingerprints.__file__).parent))


@pytest.fixture
def look(role: Path, plugin: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask for the fingerprint of the role, whose install part has two inputs."""
    for name, content in (
        ("meta/argument_specs.yml", {"argument_specs": SPECS}),
        ("defaults/main.yml", {"cook_dish": "soup of {{ season }}", "cook_name": "nobody"}),
    ):
        path = role / name
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(constants, "DEFAULT_ROLES_PATH", [str(role.parent)])

    def look(**variables: Any) -> str:
        trusted = {
            name: trust_as_template(value) if isinstance(value, str) else value
            for name, value in variables.items()
        }
        templar = Templar(DataLoader(), trusted)
        lookup = lookup_loader.get("fingerprints", loader=DataLoader(), templar=templar)
        (found,) = lookup.run(["cook"], trusted, inputs=None)
        return str(found["cook"])

    return look


def test_the_value_of_each_input_of_the_install_part_counts_and_of_no_other(look: Any) -> None:
    given = {"season": "winter", "cook_for": 4}
    assert look(**given) == look(**given, cook_name="Ada", other=1)
    assert look(**given) == look(**given, cook_dish="soup of winter")
    others = [{"season": "summer", "cook_for": 4}, {"season": "winter", "cook_for": 5}]
    assert len({look(**given), *(look(**each) for each in others)}) == 3


def test_an_input_counts_by_its_value_not_by_how_that_is_written(look: Any) -> None:
    assert look(season="winter", cook_for="{{ 2 + 2 }}") == look(season="winter", cook_for=4)


def test_the_wheel_is_of_all_that_machines_run_and_of_no_more() -> None:
    """That nothing else imports `control` is in test_layers."""
    entries = {path.name for path in wheel.PACKAGE.iterdir()} - {"control", "__pycache__"}
    assert {path.relative_to(wheel.PACKAGE).parts[0] for path in wheel.sources()} == entries
    assert {path.suffix for path in wheel.sources()} == {".py", ".json", ".html"}
