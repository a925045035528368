"""The canary fails the play, and says what is wrong, where a query would not come back."""

from support import BRIEF, Play

from tests.support.deployed.fleet import Fleet


def test_it_names_the_results_redis_when_that_is_down(play: Play, fleet: Fleet) -> None:
    with fleet.one("redis").without("redis-server@results"):
        done = play("canary", *BRIEF)
    assert done.returncode != 0
    assert "redis-server@results" in done.stdout
