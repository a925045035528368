"""The whole fleet, once more: all that the tests before broke is mended."""

import re

from support import Play


def test_the_fleet_stands_and_another_run_changes_nothing(play: Play) -> None:
    done = play("site")
    assert done.returncode == 0, done.stdout
    assert {*re.findall(r"changed=\d+", done.stdout)} == {"changed=0"}, done.stdout
