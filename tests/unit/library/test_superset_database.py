"""superset_database: what is sent for each difference, and that no password is shown."""

from typing import Any

import pytest
import superset_database
from ansible.module_utils.superset_fleet.control.superset import SupersetError
from superset_database import MASK, Properties, body, fault, plan, shown

URI = "postgresql+psycopg2://warehouse@10.0.0.5:5432/warehouse"
CURRENT: Properties = {
    "id": 1,
    "sqlalchemy_uri": URI,
    "database_password": "secret",
    "allow_run_async": True,
    "allow_dml": False,
    "extra": {"metadata_params": {}},
}


@pytest.mark.parametrize(
    ("current", "wanted", "planned"),
    [
        pytest.param(None, None, ("", {}), id="not there and not wanted"),
        pytest.param(CURRENT, None, ("DELETE", {}), id="not wanted"),
        pytest.param(
            None, {"sqlalchemy_uri": URI}, ("POST", {"sqlalchemy_uri": URI}), id="not there"
        ),
        pytest.param(
            CURRENT, {"sqlalchemy_uri": URI, "allow_run_async": True}, ("", {}), id="as wanted"
        ),
        pytest.param(
            CURRENT, {"allow_dml": True}, ("PUT", {"allow_dml": True}), id="another property"
        ),
        pytest.param(
            {**CURRENT, "database_password": None},
            {"sqlalchemy_uri": URI, "database_password": "secret"},
            ("PUT", {"database_password": "secret"}),
            id="password refused",
        ),
        pytest.param(CURRENT, {"extra": {"metadata_params": {}}}, ("", {}), id="extra is there"),
        pytest.param(
            CURRENT,
            {"extra": {"engine_params": {"pool_size": 2}}},
            ("PUT", {"extra": {"metadata_params": {}, "engine_params": {"pool_size": 2}}}),
            id="other keys of extra stay",
        ),
    ],
)
def test_plan(
    current: Properties | None, wanted: Properties | None, planned: tuple[str, Properties]
) -> None:
    assert plan(current, wanted) == planned


@pytest.mark.parametrize(
    ("changes", "wanted", "stored", "sent"),
    [
        pytest.param({"allow_dml": True}, {}, True, {"allow_dml": True}, id="URI untouched"),
        pytest.param(
            {"database_password": "a/b@c:d"},
            {"sqlalchemy_uri": URI, "database_password": "a/b@c:d"},
            True,
            {"sqlalchemy_uri": URI.replace("@", ":a%2Fb%40c%3Ad@")},
            id="password is escaped",
        ),
        pytest.param(
            {"sqlalchemy_uri": URI},
            {"sqlalchemy_uri": URI},
            True,
            {"sqlalchemy_uri": URI.replace("@", f":{MASK}@")},
            id="Superset keeps the password that it has",
        ),
        pytest.param(
            {"sqlalchemy_uri": "sqlite:///x.db"},
            {"sqlalchemy_uri": "sqlite:///x.db"},
            False,
            {"sqlalchemy_uri": "sqlite:///x.db"},
            id="no password",
        ),
        pytest.param({"extra": {"a": 1}}, {}, True, {"extra": '{"a": 1}'}, id="extra is text"),
    ],
)
def test_body(changes: Properties, wanted: Properties, stored: bool, sent: Properties) -> None:
    assert body(changes, wanted, stored) == sent


@pytest.mark.parametrize(
    ("uri", "password", "word"),
    [
        pytest.param("warehouse", None, "form", id="no URI"),
        pytest.param("postgresql://", None, "form", id="no place"),
        pytest.param(URI.replace("@", ":secret@"), None, "database_password", id="password in it"),
        pytest.param("postgresql://10.0.0.5/warehouse", "secret", "user", id="no user"),
    ],
)
def test_a_faulty_uri_is_refused(uri: str, password: str | None, word: str) -> None:
    assert word in fault(uri, password)
    assert "secret" not in fault(uri, password)


@pytest.mark.parametrize("uri", [URI, "sqlite:///x.db", "trino://host:8080/catalog"])
def test_a_sound_uri_passes(uri: str) -> None:
    assert fault(uri, None) == ""


def test_the_diff_does_not_show_the_password() -> None:
    names = ["database_password", "allow_dml"]
    assert shown(CURRENT, names, "as given") == {
        "database_password": "as given",
        "allow_dml": False,
    }
    assert shown(None, names, "as given") == {}


class Recorded:
    """A session that answers as recorded from Superset 6.1."""

    def __init__(self, status: int) -> None:
        self.status = status

    def ask(self, action: str, *_: Any, **__: Any) -> None:
        raise SupersetError(action, "no", self.status)


@pytest.mark.parametrize("status", [400, 408, 422])
def test_what_the_database_says_is_no_error_of_superset(status: int) -> None:
    properties = {"database_name": "warehouse"}
    assert superset_database.connection_failure(Recorded(status), properties) is not None


@pytest.mark.parametrize("status", [0, 401, 403, 500, 503])
def test_a_failing_superset_is_not_taken_for_a_refused_password(status: int) -> None:
    with pytest.raises(SupersetError):
        superset_database.connection_failure(Recorded(status), {"database_name": "warehouse"})
