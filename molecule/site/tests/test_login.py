"""What a user meets at the front door."""

import re
from typing import Any

import requests


def log_in(session: requests.Session, url: str, password: str) -> requests.Response:
    page = session.get(f"{url}/login/", timeout=30)
    token = re.search(r'csrf_token[^>]*value="([^"]+)"', page.text) or re.search(
        r"csrf_token&#34;: &#34;([^&]+)&#34;", page.text
    )
    assert token, "the login page has no CSRF token"
    form = {"username": "admin", "password": password, "csrf_token": token[1]}
    return session.post(f"{url}/login/", data=form, timeout=30, headers={"Referer": url})


def who(session: requests.Session, url: str) -> requests.Response:
    return session.get(f"{url}/api/v1/me/", timeout=30)


def test_plain_http_is_sent_to_https(stranger: requests.Session, url: str) -> None:
    answer = stranger.get(url.replace("https:", "http:"), allow_redirects=False, timeout=30)
    assert answer.status_code == 308
    assert answer.headers["Location"].startswith("https://")


def test_admin_logs_in_and_stays_logged_in(
    stranger: requests.Session, url: str, facts: dict[str, Any]
) -> None:
    log_in(stranger, url, facts["superset_admin_password"])
    # Twice as often as there are web machines: any of them knows the session.
    for _ in range(2 * len(facts["superset_web_endpoints"])):
        answer = who(stranger, url)
        assert answer.status_code == 200
        assert answer.json()["result"]["username"] == "admin"


def test_every_web_machine_honours_a_session_that_another_one_began(
    stranger: requests.Session, url: str, facts: dict[str, Any]
) -> None:
    log_in(stranger, url, facts["superset_admin_password"])
    session = {"Cookie": f"session={stranger.cookies['session']}", "X-Forwarded-Proto": "https"}
    for endpoint in facts["superset_web_endpoints"].values():
        answer = requests.get(f"http://{endpoint}/api/v1/me/", headers=session, timeout=30)
        assert answer.json()["result"]["username"] == "admin"


def test_a_wrong_password_is_refused(stranger: requests.Session, url: str) -> None:
    log_in(stranger, url, "wrong")
    assert who(stranger, url).status_code == 401


def test_the_session_s_cookie_is_for_https_alone(
    stranger: requests.Session, url: str, facts: dict[str, Any]
) -> None:
    log_in(stranger, url, facts["superset_admin_password"])
    (session,) = [cookie for cookie in stranger.cookies if cookie.name == "session"]
    assert session.secure


def test_browsers_are_told_to_stay_with_https(stranger: requests.Session, url: str) -> None:
    assert "max-age=" in who(stranger, url).headers["Strict-Transport-Security"]


def test_static_files_are_compressed_and_served_from_the_load_balancer_s_cache(
    stranger: requests.Session, url: str
) -> None:
    page = stranger.get(f"{url}/login/", timeout=30)
    script = re.search(r'src="(/static/assets/[^"]+\.js)"', page.text)
    assert script
    gzip, plain = {"Accept-Encoding": "gzip"}, {"Accept-Encoding": None}
    answers = [stranger.get(url + script[1], headers=gzip, timeout=30) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["Content-Encoding"] == "gzip"
    assert "Age" in answers[1].headers
    # Who cannot read that gets the same text as it is.
    unread = stranger.get(url + script[1], headers=plain, timeout=30)
    assert "Content-Encoding" not in unread.headers
    assert unread.text == answers[0].text
