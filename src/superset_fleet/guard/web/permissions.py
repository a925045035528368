"""What a role may do, kept for seconds (CUSTOM_SECURITY_MANAGER).

Superset asks the database for it several times in each request, and for each object of the public
role. Who a user is, whether they are active and which roles they have is asked each time, as
before: each answer that is kept belongs to these roles. A change of a role is heard of at once in
the process that makes it, and elsewhere after `permissions_seconds`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import sqlalchemy
from flask import g
from sqlalchemy.orm.exc import DetachedInstanceError

from ...times import TIMES

MOST = 1_000  # answers; names of schemas, which users may type, are in the questions
T = TypeVar("T")
CHANGED = "superset_fleet_roles_changed"  # in the `info` of a session


class Answers:
    """Answers to questions, all forgotten after a time and when they may be wrong."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self.forget()

    def forget(self) -> None:
        """Forget all answers, and those that are on their way."""
        self._kept: tuple[float, dict[Hashable, Any]] = (self._clock() + self._seconds, {})

    def get(self, question: Hashable, ask: Callable[[], T]) -> T:
        """Return the answer that is known, or ask."""
        until, answers = self._kept
        if self._clock() >= until or len(answers) >= MOST:
            self.forget()
            answers = self._kept[1]
        # What is forgotten while this asks is another dictionary.
        if question not in answers:
            answers[question] = ask()
        answer: T = answers[question]
        return answer


def forget_with(session: Any, models: tuple[type, ...], forget: Callable[[], None]) -> None:
    """Call `forget` after each commit of a session in which objects of these models changed."""

    def look(session: Any, _: Any) -> None:
        changed = itertools.chain(session.new, session.dirty, session.deleted)
        if any(isinstance(each, models) for each in changed):
            session.info[CHANGED] = True

    def after(session: Any) -> None:
        if not session.in_nested_transaction() and session.info.pop(CHANGED, False):
            forget()

    sqlalchemy.event.listen(session, "after_flush", look)
    sqlalchemy.event.listen(session, "after_commit", after)


def keep(manager: Any) -> type:
    """Return a manager of security like this one, or like Superset's own, that keeps answers.

    A method that somebody has overridden may look at more than roles: it is asked each time.
    """
    from superset.security import SupersetSecurityManager

    base: Any = manager or SupersetSecurityManager

    def own(*names: str) -> bool:
        return all(getattr(base, name) is getattr(SupersetSecurityManager, name) for name in names)

    public = own("is_item_public", "get_public_permissions", "get_public_role")
    roles = own("exist_permission_on_roles")
    names = own("user_view_menu_names", "get_user_roles")

    class SecurityManager(base):  # type: ignore[misc]
        def __init__(self, appbuilder: Any) -> None:
            self._answers = Answers(TIMES.permissions_seconds)
            super().__init__(appbuilder)
            models = (self.role_model, self.permissionview_model)
            forget_with(self.session, models, self._answers.forget)

        def is_item_public(self, permission_name: str, view_name: str) -> bool:
            def ask() -> bool:
                return bool(base.is_item_public(self, permission_name, view_name))

            return self._answers.get(("", permission_name, view_name), ask) if public else ask()

        def exist_permission_on_roles(
            self, view_name: str, permission_name: str, role_ids: list[int]
        ) -> bool:
            def ask() -> bool:
                return bool(
                    base.exist_permission_on_roles(self, view_name, permission_name, role_ids)
                )

            question = (tuple(sorted(role_ids)), permission_name, view_name)
            return self._answers.get(question, ask) if roles else ask()

        def user_view_menu_names(self, permission_name: str) -> set[str]:
            def ask() -> set[str]:
                return set(base.user_view_menu_names(self, permission_name))

            if not names or g.user.is_anonymous:
                return ask()
            # Of this user with the roles of this moment; a guest has roles, too, and no id.
            try:
                found = tuple(sorted(role.id for role in self.get_user_roles(g.user)))
            except DetachedInstanceError:  # by who has left the session
                return ask()
            question = (getattr(g.user, "id", None), found, permission_name)
            return set(self._answers.get(question, ask))

    return SecurityManager
