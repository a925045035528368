"""Machines that no plugin discovered: the same playbooks from a static inventory."""

from support import PlainFleet, Play


def test_the_same_playbook_makes_a_fleet_that_answers_asynchronous_queries(
    play: Play, plain_fleet: PlainFleet
) -> None:
    status, said = plain_fleet.deployed()
    assert status == 0, said
    second = play("site", "--inventory", str(plain_fleet.inventory))
    assert second.returncode == 0, second.stdout
    assert {part for part in second.stdout.split() if part.startswith("changed=")} == {"changed=0"}
