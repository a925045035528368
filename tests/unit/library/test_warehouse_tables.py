"""warehouse_tables: which tables are loaded, and what is read from the archive."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from warehouse_tables import open_csv, plan


@pytest.mark.parametrize(
    ("current", "wanted", "names"),
    [
        pytest.param({"a": 2}, {"a": 2}, [], id="complete"),
        pytest.param({"a": None}, {"a": 2}, ["a"], id="missing"),
        pytest.param({"a": 1, "b": 3}, {"b": 2, "a": 2}, ["a", "b"], id="too few, too many"),
        pytest.param({"a": 0}, {"a": 2}, ["a"], id="emptied"),
    ],
)
def test_tables_that_are_not_complete_are_loaded(
    current: dict[str, int | None], wanted: dict[str, int], names: list[str]
) -> None:
    assert plan(current, wanted) == names


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("flights.csv", "number\n1\n")
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as tar:
        for name, content in [("a.csv", b"name\nx\n"), ("flights.csv.zip", zipped.getvalue())]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return tmp_path / "data.tar.gz"


def test_a_csv_file_is_read_from_the_archive_zipped_or_not(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        assert open_csv(tar, "a.csv").read() == b"name\nx\n"
        assert open_csv(tar, "flights.csv.zip").read() == b"number\n1\n"


def test_a_file_that_is_not_in_the_archive_is_named(archive: Path) -> None:
    with tarfile.open(archive) as tar, pytest.raises(KeyError, match=r"planes\.csv"):
        open_csv(tar, "planes.csv")
