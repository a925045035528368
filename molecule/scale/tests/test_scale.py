"""Web machines come and go by themselves, and no user's request is lost with them.

Each test goes on from the last: one machine comes, is there, leaves; another one dies.
"""

import time
from collections.abc import Callable

from tests.support.deployed.fleet import wait
from tests.support.deployed.groups import Group, Rotation, localcloud
from tests.support.deployed.load import Load
from tests.support.deployed.machines import find

Measure = Callable[[str, str], None]


def test_a_new_machine_serves_by_itself(
    web: Group, rotation: Rotation, users: Load, measure: Measure
) -> None:
    before, start = rotation.up(), time.monotonic()
    web.want(web.desired + 1)
    (newcomer,) = wait("a newcomer in rotation", lambda: rotation.up() - before, timeout=240)
    wait("its first request", lambda: rotation.servers()[newcomer]["served"], timeout=30)
    measure("desired + 1 → first request answered", f"{time.monotonic() - start:.1f} s")
    users.more(200)
    assert not users.failed, users.report()
    assert rotation.up() == before | {newcomer}


def test_haproxy_s_reload_forgets_no_newcomer_and_loses_no_request(
    web: Group, rotation: Rotation, users: Load
) -> None:
    before = rotation.up()
    assert len(before) == web.desired
    (balancer,) = find("haproxy")
    balancer.run("systemctl reload haproxy")
    users.more(200)
    assert rotation.up() == before
    assert not users.failed, users.report()


def test_a_machine_that_leaves_takes_no_request_with_it(
    web: Group, rotation: Rotation, users: Load, measure: Measure
) -> None:
    before, start = web.members("InService"), time.monotonic()
    web.want(web.desired - 1)
    (leaver,) = wait("a machine leaves", lambda: before - web.members("InService"))
    wait("it gets no requests any more", lambda: leaver not in rotation.up(), timeout=60)
    measure("desired - 1 → out of rotation", f"{time.monotonic() - start:.1f} s")
    wait("it is gone", lambda: leaver not in web.members(), timeout=240)
    measure("desired - 1 → gone", f"{time.monotonic() - start:.1f} s")
    users.more(200)
    assert not users.failed, users.report()
    assert leaver not in rotation.servers()


def test_a_machine_that_dies_takes_no_more_than_what_it_was_doing(
    web: Group, rotation: Rotation, users: Load
) -> None:
    victim = min(rotation.up())
    at_work = rotation.servers()[victim]["requests"]
    localcloud("kill", victim)
    # The group waits for the hook of the dead one, but not with its replacement.
    wait("it is replaced", lambda: victim not in web.members("InService"), timeout=60)
    wait("all serve again", lambda: len(rotation.up() - {victim}) == web.desired, timeout=240)
    users.more(200)
    # Between the look and its death it may have been given what all the users ask at a time.
    assert users.failed.total() <= max(at_work, 8), users.report()
    assert set(users.failed) <= {"status 502", "status 503", "status 504"}, users.report()
