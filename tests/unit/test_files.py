"""Files that are replaced at once, and only where their text is another one."""

from pathlib import Path

import pytest

from superset_fleet.files import holds, replace


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "servers.cfg"
    assert not holds(path, "new\n")
    assert replace(path, "old\n", mode=0o644)
    with path.open() as open_before:
        assert replace(path, "new\n", mode=0o644)
        assert open_before.read() == "old\n"
    assert holds(path, "new\n")
    assert [one.name for one in tmp_path.iterdir()] == ["servers.cfg"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_its_owner_s_alone_unless_said_otherwise(tmp_path: Path) -> None:
    replace(tmp_path / "facts.json", "secret")
    assert (tmp_path / "facts.json").stat().st_mode & 0o777 == 0o600


def test_a_file_that_has_the_text_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    replace(path, "same\n")
    before = path.stat()
    assert not replace(path, "same\n")
    after = path.stat()  # whose time of access is another: the file was read
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "directory" / "within").mkdir(parents=True)
    with pytest.raises(OSError):
        replace(tmp_path / "directory", "text")
    with pytest.raises(UnicodeEncodeError):
        replace(tmp_path / "file", "\ud800")
    assert [one.name for one in tmp_path.iterdir()] == ["directory"]
