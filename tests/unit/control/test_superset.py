"""The client of Superset's REST API: what it says when there is no good answer."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from superset_fleet.control.superset import Superset, SupersetError, message, rison

PASSWORD = "the password"
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that gives the same answer to everything, and return its URL."""
    servers = []

    def start(status: int, body: str = "", headers: dict[str, str] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(url: str) -> str:
    """Return why a login failed; it names the address and the user, never the password."""
    with pytest.raises(SupersetError) as caught:
        Superset(url, timeout=1).log_in("admin", PASSWORD)
    text = str(caught.value)
    assert text.startswith(f"log in to {url} as admin: ")
    assert PASSWORD not in text
    return text


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, '{"message": "Not authorized"}', "HTTP 401: Superset does not know this user"),
        (403, '{"message": "Forbidden"}', "HTTP 403: Forbidden"),
        (400, '{"errors": [{"message": "one"}, {"message": "two"}]}', "HTTP 400: one; two"),
        (422, '{"message": {"sql": ["missing"]}}', 'HTTP 422: {"sql": ["missing"]}'),
        (400, '{"message": "400 Bad Request: The CSRF session token is missing."}', "https"),
        (500, "<html>oh</html>", "HTTP 500: no reason given"),
        (502, "<html>", "journalctl -u superset-web"),
        (503, "<html>", "no web server is up behind the load balancer"),
        (504, "<html>", "did not answer in time"),
        (200, "<html>", "HTTP 200: the answer is not JSON"),
    ],
)
def test_an_answer_is_explained(serve: Serve, status: int, body: str, said: str) -> None:
    assert said in refusal(serve(status, body))


def test_a_redirect_is_not_followed_but_named(serve: Serve) -> None:
    location = {"Location": "https://superset.example.com/"}
    assert "use this address instead: https://superset.example.com/" in refusal(
        serve(301, headers=location)
    )


def test_nobody_listens() -> None:
    assert "systemctl status haproxy" in refusal("http://127.0.0.1:9")


def test_nobody_answers() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:
        assert "did not answer in time" in refusal(f"http://127.0.0.1:{silent.server_port}")


def test_an_address_without_a_scheme_is_refused() -> None:
    assert "unknown url type" in refusal("superset.example.com")


def test_a_certificate_that_is_none_is_refused() -> None:
    with pytest.raises(SupersetError, match="read the CA certificate"):
        Superset("https://superset.example.com", ca_certificate="not PEM")


def test_the_password_is_not_kept(serve: Serve) -> None:
    tokens = json.dumps({"access_token": "a", "refresh_token": "r"})
    superset = Superset(serve(200, tokens))
    with pytest.raises(SupersetError):  # this server knows no GET, which asks for the CSRF token
        superset.log_in("admin", PASSWORD)
    assert PASSWORD not in repr(vars(superset))


def test_the_environment_s_proxy_is_not_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "HTTP 403" in refusal(serve(403))


@pytest.mark.parametrize(
    ("text", "escaped"), [("warehouse", "'warehouse'"), ("it's!", "'it!'s!!'"), ("", "''")]
)
def test_rison(text: str, escaped: str) -> None:
    assert rison(text) == escaped


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"{}"])
def test_a_body_without_a_reason_gives_none(body: bytes) -> None:
    assert message(body) == ""
