"""scaler_hold: an operator's brake, and an upgrade's."""

from collections.abc import Iterator

import pytest
import scaler_hold

from superset_fleet.guard.registry import Registry


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    registry = Registry(redis_url)
    registry.redis.flushall()
    yield registry
    registry.redis.close()


def reason(registry: Registry) -> str:
    held = registry.held()
    return held.reason if held else ""


def test_what_was_held_is_released(registry: Registry) -> None:
    assert scaler_hold.hold(registry, "upgrade", check=False) == ""
    assert reason(registry) == "upgrade"
    assert scaler_hold.hold(registry, "", check=False) == "upgrade"
    assert registry.held() is None


def test_since_when_it_is_held_stays_as_it_was_when_it_is_held_again(registry: Registry) -> None:
    scaler_hold.hold(registry, "upgrade", check=False)
    before = registry.held()
    assert before
    assert before.at == pytest.approx(registry.now(), abs=5)
    scaler_hold.hold(registry, "upgrade", check=False)
    assert registry.held() == before


def test_in_check_mode_nothing_is_held(registry: Registry) -> None:
    scaler_hold.hold(registry, "upgrade", check=True)
    assert registry.held() is None
