"""scaler_hold: an operator's brake, and an upgrade's."""

import pytest
import scaler_hold

from superset_fleet.state.registry import EVERY_GROUP, Registry


def reasons(registry: Registry) -> dict[str, str]:
    return {group: hold.reason for group, hold in registry.held().items()}


def test_what_was_held_is_released(registry: Registry) -> None:
    assert scaler_hold.hold(registry, EVERY_GROUP, "upgrade", check=False) == (True, "")
    assert reasons(registry) == {EVERY_GROUP: "upgrade"}
    assert scaler_hold.hold(registry, EVERY_GROUP, "", check=False) == (True, "upgrade")
    assert registry.held() == {}
    assert scaler_hold.hold(registry, EVERY_GROUP, "", check=False) == (False, "")


def test_a_group_is_held_and_released_beside_the_others(registry: Registry) -> None:
    scaler_hold.hold(registry, EVERY_GROUP, "night", check=False)
    assert scaler_hold.hold(registry, "charts", "upgrade", check=False) == (True, "")
    assert scaler_hold.hold(registry, "charts", "", check=False) == (True, "upgrade")
    assert reasons(registry) == {EVERY_GROUP: "night"}


def test_to_release_all_is_to_release_each(registry: Registry) -> None:
    scaler_hold.hold(registry, "charts", "upgrade", check=False)
    assert scaler_hold.hold(registry, EVERY_GROUP, "", check=False) == (True, "")
    assert registry.held() == {}


def test_since_when_it_is_held_stays_as_it_was_when_it_is_held_again(registry: Registry) -> None:
    scaler_hold.hold(registry, "charts", "upgrade", check=False)
    before = registry.held()
    assert before["charts"].at == pytest.approx(registry.now(), abs=5)
    assert scaler_hold.hold(registry, "charts", "upgrade", check=False) == (False, "upgrade")
    assert registry.held() == before


def test_in_check_mode_nothing_is_held(registry: Registry) -> None:
    assert scaler_hold.hold(registry, EVERY_GROUP, "upgrade", check=True) == (True, "")
    assert registry.held() == {}
