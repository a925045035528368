"""What roles may do is kept for seconds, and forgotten when a role changes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import flask
import pytest
import sqlalchemy
from sqlalchemy import orm

from superset_fleet.guard.web import permissions
from superset_fleet.guard.web.permissions import Answers, keep

Base: Any = orm.declarative_base()
may = sqlalchemy.Table(
    "may",
    Base.metadata,
    sqlalchemy.Column("role_id", sqlalchemy.ForeignKey("role.id")),
    sqlalchemy.Column("permission_id", sqlalchemy.ForeignKey("permission.id")),
)


class Permission(Base):  # type: ignore[misc]
    __tablename__ = "permission"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)


class Role(Base):  # type: ignore[misc]
    __tablename__ = "role"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
    permissions = orm.relationship(Permission, secondary=may)


class Chart(Base):  # type: ignore[misc]
    __tablename__ = "chart"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)


class Stock:
    """Superset's manager of security: what of it is kept, and how often it was asked."""

    role_model, permissionview_model = Role, Permission

    def __init__(self, appbuilder: Any) -> None:
        self.session = appbuilder.session
        self.asked: list[tuple[Any, ...]] = []

    def get_public_role(self) -> None: ...

    def get_public_permissions(self) -> None: ...

    def get_user_roles(self, user: Any) -> Any:
        return user.roles

    def user_view_menu_names(self, permission_name: str) -> set[str]:
        self.asked.append((permission_name,))
        return {"sales"}

    def is_item_public(self, permission_name: str, view_name: str) -> bool:
        self.asked.append((permission_name, view_name))
        return permission_name == "can_read"

    def exist_permission_on_roles(self, view_name: str, name: str, role_ids: list[int]) -> bool:
        self.asked.append((view_name, name, role_ids))
        return name == "can_read"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Any]:
    """A session as Superset has it, of a database with a role that may do one thing."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/superset.db")
    Base.metadata.create_all(engine)
    session = orm.scoped_session(orm.sessionmaker(engine))
    session.add_all([Role(id=1, permissions=[Permission(id=1)]), Permission(id=2), Chart(id=1)])
    session.commit()
    yield session
    session.remove()
    engine.dispose()


@pytest.fixture(autouse=True)
def superset(monkeypatch: pytest.MonkeyPatch) -> None:
    security = ModuleType("superset.security")
    vars(security)["SupersetSecurityManager"] = Stock
    monkeypatch.setitem(sys.modules, "superset", ModuleType("superset"))
    monkeypatch.setitem(sys.modules, "superset.security", security)


def manager(session: Any, configured: Any = None) -> Any:
    return keep(configured)(SimpleNamespace(session=session))


def test_each_question_about_roles_is_asked_once(session: Any) -> None:
    security = manager(session)
    for _ in range(2):
        assert security.exist_permission_on_roles("Chart", "can_read", [1, 2]) is True
        assert security.exist_permission_on_roles("Chart", "can_read", [2, 1]) is True
        assert security.exist_permission_on_roles("Chart", "can_read", [1]) is True
        assert security.exist_permission_on_roles("Chart", "can_write", [1, 2]) is False
        assert security.is_item_public("can_read", "Chart") is True
        assert security.is_item_public("can_write", "Chart") is False
    assert len(security.asked) == 5


@pytest.fixture
def user() -> Iterator[Any]:
    """Who asks."""
    with flask.Flask(__name__).app_context():
        flask.g.user = SimpleNamespace(id=1, is_anonymous=False, roles=[Role(id=1), Role(id=2)])
        yield flask.g.user


def test_what_a_user_sees_is_asked_once_while_the_roles_are_the_same(
    session: Any, user: Any
) -> None:
    security = manager(session)
    for _ in range(2):
        assert security.user_view_menu_names("datasource_access") == {"sales"}
        security.user_view_menu_names("datasource_access").clear()  # which is the caller's own
    assert len(security.asked) == 1
    user.roles.pop()
    security.user_view_menu_names("datasource_access")
    assert len(security.asked) == 2


def test_nobody_sees_what_another_user_with_the_same_roles_sees(session: Any, user: Any) -> None:
    security = manager(session)
    security.user_view_menu_names("datasource_access")
    user.id = 2
    security.user_view_menu_names("datasource_access")
    del user.id  # a guest
    security.user_view_menu_names("datasource_access")
    assert len(security.asked) == 3


def test_what_users_see_is_asked_each_time_who_are_nobody_or_not_known_any_more(
    session: Any, user: Any
) -> None:
    security = manager(session)
    user.is_anonymous = True
    for _ in range(2):
        security.user_view_menu_names("datasource_access")
    assert len(security.asked) == 2
    gone = session.get(Role, 1)
    session.expire(gone)
    session.expunge(gone)
    user.is_anonymous, user.roles = False, [gone]
    for _ in range(2):
        security.user_view_menu_names("datasource_access")
    assert len(security.asked) == 4


def change_its_permissions(session: Any) -> None:
    session.get(Role, 1).permissions = [session.get(Permission, 2)]


def add_a_role(session: Any) -> None:
    session.add(Role(id=2))


def delete_a_permission(session: Any) -> None:
    session.delete(session.get(Permission, 2))


@pytest.mark.parametrize("change", [change_its_permissions, add_a_role, delete_a_permission])
def test_a_change_of_a_role_counts_when_it_is_committed(session: Any, change: Any) -> None:
    security = manager(session)
    security.is_item_public("can_read", "Chart")
    change(session)
    session.flush()
    security.is_item_public("can_read", "Chart")
    assert len(security.asked) == 1
    session.commit()
    security.is_item_public("can_read", "Chart")
    assert len(security.asked) == 2


def test_other_changes_leave_what_is_known(session: Any) -> None:
    security = manager(session)
    security.is_item_public("can_read", "Chart")
    session.delete(session.get(Chart, 1))
    session.commit()
    security.is_item_public("can_read", "Chart")
    assert len(security.asked) == 1


def test_a_manager_of_the_installation_is_asked_each_time_where_it_decides_itself(
    session: Any,
) -> None:
    class Theirs(Stock):
        def get_public_permissions(self) -> None:
            """By the address, for example."""

        def exist_permission_on_roles(self, view_name: str, name: str, role_ids: list[int]) -> bool:
            return super().exist_permission_on_roles(view_name, name, role_ids)

    class Untouched(Stock):
        """With other logins, for example."""

    asked = {}
    for configured in (Theirs, Untouched):
        security = manager(session, configured)
        assert isinstance(security, configured)
        for _ in range(3):
            security.is_item_public("can_read", "Chart")
            security.exist_permission_on_roles("Chart", "can_read", [1])
        asked[configured.__name__] = len(security.asked)
    assert asked == {"Theirs": 6, "Untouched": 2}


def test_an_answer_is_known_for_a_time_and_no_longer() -> None:
    now = 100.0
    answers = Answers(5, lambda: now)
    assert answers.get("may?", lambda: True)
    now += 4.9
    assert answers.get("may?", lambda: False)
    now += 0.1
    assert not answers.get("may?", lambda: False)


def test_an_answer_that_is_on_its_way_when_all_are_forgotten_is_not_kept() -> None:
    answers = Answers(5)

    def ask() -> bool:
        answers.forget()  # while the database answers, somebody else commits
        return True

    assert answers.get("may?", ask)
    assert not answers.get("may?", lambda: False)


def test_questions_that_are_never_asked_twice_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permissions, "MOST", 10)
    answers = Answers(5)
    for number in range(95):
        answers.get(number, lambda: True)
    assert len(answers._kept[1]) == 5
