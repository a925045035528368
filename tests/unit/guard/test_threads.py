"""Which request gets a thread of a web process, and when."""

import threading
from collections.abc import Callable, Iterator

import pytest

from superset_fleet.guard.web.threads import Asked, Threads, asked
from tests.support.waiting import until


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: superset", *headers, "", ""]).encode()


# -- What is asked --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "POST /api/v1/chart/data?form_data=1",
        "GET /api/v1/chart/7/data/",
        "GET /api/v1/chart/data/qc-1",
        "GET /api/v1/dashboard/export/?q=!(1)",
        "POST /api/v1/assets/import/",
        "POST /datasource/samples?force=false",
        "GET /api/v1/sqllab/export/abc/",
        "POST /api/v1/sqllab/estimate/",
        "GET /api/v1/database/1/tables/?q=(schema_name:public)",
        "POST /api/v1/database/test_connection/",
        "POST /superset/explore_json/?form_data=1",
        "POST /api/v1/%63hart/data",
        "POST http://superset/api/v1/chart/data",
    ],
)
def test_what_asks_a_database_of_users_may_be_slow(line: str) -> None:
    assert asked(head(line)).slow


@pytest.mark.parametrize(
    "line",
    [
        "GET /superset/welcome/",
        "GET /login/",
        "GET /api/v1/chart/7",
        "GET /api/v1/chart/?q=(page:0)",
        "GET /api/v1/database/",
        "POST /api/v1/sqllab/execute/",
        "GET /api/v1/sqllab/results/?q=(key:1)",
        "GET /api/v1/query/updated_since",
        "GET /",
    ],
)
def test_pages_and_queries_by_workers_are_not_slow(line: str) -> None:
    assert asked(head(line)) == Asked(b"")


@pytest.mark.parametrize(
    ("headers", "slow"),
    [
        (["Content-Length: 20000"], False),
        (["content-length: 40000"], True),
        ([f"Content-Length: {'9' * 5000}"], True),
        (["Transfer-Encoding: chunked"], True),
    ],
)
def test_a_body_that_may_come_at_any_pace_is_slow(headers: list[str], slow: bool) -> None:
    assert asked(head("POST /login/", *headers)).slow is slow


def test_a_request_of_which_the_rest_may_come_at_any_pace_is_slow() -> None:
    assert asked(b"GET /login/ HTTP/1.1\r\nHost: sup").slow
    assert asked(b"G").slow


def test_a_user_is_known_by_session_or_token_and_else_by_address() -> None:
    def user(*headers: str) -> bytes:
        return asked(head("GET /", "X-Forwarded-For: 192.0.2.7", *headers)).user

    assert user() == user("Cookie: other=1") == b"192.0.2.7"
    ann = user("Cookie: a=b; session=.eJw1.aCk.sig; c=d")
    assert ann == user("cookie: session=.eJw1.newer.other") == b"eJw1"
    assert user("Cookie: session=eyJ9.aCk.sig") not in (ann, user())
    assert user("Authorization: Bearer 1") != user("Authorization: Bearer 2")
    assert user("X-GuestToken: 1") != user("X-GuestToken: 2")


def test_health_is_aside_for_who_does_not_come_as_users_do() -> None:
    for path in ("/ready", "/health", "/fleet/health?queue=reports", "/fleet/metrics"):
        assert asked(head(f"GET {path}")).aside
        assert not asked(head(f"GET {path}", "X-Forwarded-For: 192.0.2.7")).aside
    assert not asked(head("GET /health/more")).aside


# -- Who gets a thread ----------------------------------------------------------------------------
class Held:
    """Requests that are served until they are let go: how many, and in which order they began."""

    def __init__(self, number: int) -> None:
        self.begun: list[str] = []
        self.finished: list[str] = []
        self._released: dict[str, threading.Event] = {}
        self._threads = Threads(number, self._serve)

    def ask(self, user: str, slow: bool = False, number: int = 1) -> None:
        for each in range(number):
            name = f"{user}{each}"
            self._released[name] = threading.Event()
            self._threads.submit(Asked(user.encode(), slow), name)

    def began(self, *names: str) -> bool:
        return sorted(self.begun) == sorted(names)

    def finish(self, *names: str) -> None:
        for name in names:
            self.finished.append(name)
            self._released[name].set()

    def overdue(self) -> list[str]:
        return self._threads.overdue(0)

    def close(self) -> None:
        self.finish(*self._released)

    def _serve(self, name: str) -> None:
        self.begun.append(name)
        self._released[name].wait()


@pytest.fixture
def held() -> Iterator[Callable[[int], Held]]:
    made: list[Held] = []

    def hold(number: int) -> Held:
        made.append(Held(number))
        return made[-1]

    yield hold
    for each in made:
        each.close()


def test_what_may_be_slow_has_half_of_the_threads_and_one_user_not_all_of_these(
    held: Callable[[int], Held],
) -> None:
    requests = held(8)
    requests.ask("ann", slow=True, number=10)
    until(lambda: requests.began("ann0", "ann1", "ann2"), "ann has three threads")
    requests.ask("bob", slow=True, number=2)
    until(lambda: requests.began("ann0", "ann1", "ann2", "bob0"), "bob has the fourth")
    requests.ask("page", number=4)
    until(lambda: len(requests.begun) == 8, "pages have the other half")
    assert {f"page{each}" for each in range(4)} < {*requests.begun}


def test_one_user_leaves_a_thread_to_the_others_whatever_is_asked(
    held: Callable[[int], Held],
) -> None:
    requests = held(4)
    requests.ask("ann", number=10)
    until(lambda: len(requests.begun) == 3, "ann has three threads")
    requests.ask("bob")
    until(lambda: "bob0" in requests.begun, "bob has the fourth")
    assert len(requests.begun) == 4


def test_those_who_wait_have_their_turns_one_user_after_the_other(
    held: Callable[[int], Held],
) -> None:
    requests = held(2)
    requests.ask("ann", slow=True, number=3)
    until(lambda: requests.begun == ["ann0"], "ann has a thread")
    requests.ask("bob", slow=True, number=2)
    requests.ask("eve", slow=True, number=1)
    turns = ["ann0", "ann1", "bob0", "eve0", "ann2", "bob1"]
    for turn in range(1, len(turns)):
        requests.finish(turns[turn - 1])
        until(lambda: len(requests.begun) > len(requests.finished), "the next one has its turn")
    assert requests.begun == turns


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_fewest_threads_serve_everything(held: Callable[[int], Held], number: int) -> None:
    requests = held(number)
    requests.ask("ann", slow=True)
    until(lambda: requests.began("ann0"), "what is slow is served")
    requests.finish("ann0")
    requests.ask("page")
    until(lambda: requests.began("ann0", "page0"), "a page is served")


def test_what_has_waited_for_too_long_is_served_no_more(held: Callable[[int], Held]) -> None:
    requests = held(2)
    requests.ask("ann", slow=True, number=3)
    until(lambda: requests.began("ann0"), "one is served")
    assert requests.overdue() == ["ann1", "ann2"]
    requests.finish("ann0")
    requests.ask("bob", slow=True)
    until(lambda: requests.began("ann0", "bob0"), "the next one is served")
