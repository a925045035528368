"""A session with Superset's REST API: log in, ask, and errors that say what was being done.

Python's standard library only: Ansible ships this file to the machines.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, NoReturn

# What to look at, by HTTP status, where the answer itself does not say it.
ADVICE = {
    429: "too many requests from this address; wait and try again",
    502: "a web server broke off; see: journalctl -u superset-web on the superset_web machines",
    503: "no web server is up behind the load balancer; see: systemctl status superset-web on the"
    " superset_web machines",
    504: "a web server did not answer in time; see: journalctl -u superset-web on the superset_web"
    " machines",
}

# Options of every module that speaks to Superset.
SESSION_OPTIONS: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "username": {"type": "str", "default": "admin"},
    "password": {"type": "str", "required": True, "no_log": True},
    "ca_certificate": {"type": "str", "default": ""},
}


class SupersetError(Exception):
    """Superset was not reached, or it refused.

    The message names what was being done, the HTTP status and Superset's reason.
    `status` is the HTTP status, or 0 where there was no answer.
    """

    def __init__(self, action: str, reason: str, status: int = 0) -> None:
        super().__init__(f"{action}: {f'HTTP {status}: ' if status else ''}{reason}")
        self.status = status


class Superset:
    """One user's session with Superset.

    `url` is the address that users have, without a path; `ca_certificate` is the PEM text of the
    only authority to trust, or empty for the system's; `timeout` is in seconds, for each request.
    Proxy settings of the environment are not used: the password goes to this address only.

    Raises SupersetError.
    """

    def __init__(self, url: str, ca_certificate: str = "", timeout: float = 30) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        self._token = self._refresh_token = ""
        try:
            context = ssl.create_default_context(cadata=ca_certificate or None)
        except ssl.SSLError as error:
            raise SupersetError("read the CA certificate", str(error)) from error
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(),
            _NoRedirect,
        )

    def log_in(self, username: str, password: str) -> None:
        """Start the session. The password is not kept."""
        action = f"log in to {self.url} as {username}"
        login = {"username": username, "password": password, "provider": "db", "refresh": True}
        try:
            tokens = self.ask(action, "POST", "/api/v1/security/login", login)
        except SupersetError as error:
            if error.status != 401:
                raise
            reason = "Superset does not know this user with this password"
            raise SupersetError(action, reason, 401) from None
        self._token, self._refresh_token = tokens["access_token"], tokens["refresh_token"]
        # The token and the session cookie that comes with it are one another's proof, and over
        # https the referrer must be the same site: Superset asks for all three on every change.
        csrf = self.ask(action, "GET", "/api/v1/security/csrf_token/")
        self._headers |= {"X-CSRFToken": csrf["result"], "Referer": self.url}

    def ask(
        self,
        action: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: str = "",
    ) -> Any:
        """Send one request and return the JSON answer.

        `action` is what a human would call it, and begins the error message; `query` is Rison,
        the notation of Superset's parameter q.
        """
        try:
            return self._send(action, method, path, body, query)
        except SupersetError as error:
            # An access token lives for minutes (JWT_ACCESS_TOKEN_EXPIRES); a query may last longer.
            if error.status != 401 or not self._refresh_token:
                raise
        self._token = self._refresh_token
        renewed = self._send(action, "POST", "/api/v1/security/refresh", {}, "")
        self._token = renewed["access_token"]
        return self._send(action, method, path, body, query)

    def find_database(self, name: str) -> int | None:
        """Return the id of a database connection, or None where Superset has none of this name."""
        found = self.ask(
            f"find database {name}",
            "GET",
            "/api/v1/database/",
            query=f"(filters:!((col:database_name,opr:eq,value:{rison(name)})))",
        )
        return next((database["id"] for database in found["result"]), None)

    def _send(
        self, action: str, method: str, path: str, body: Mapping[str, Any] | None, query: str
    ) -> Any:
        parameters = f"?{urllib.parse.urlencode({'q': query})}" if query else ""
        authorization = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            request = urllib.request.Request(
                f"{self.url}{path}{parameters}",
                method=method,
                headers=self._headers | authorization,
                data=None if body is None else json.dumps(body).encode(),
            )
            with self._opener.open(request, timeout=self._timeout) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            refuse(action, error.code, error.read(), error.headers.get("Location", ""))
        except (OSError, ValueError) as error:
            raise SupersetError(action, unreached(self.url, error)) from error
        try:
            return json.loads(text)
        except ValueError:
            raise SupersetError(
                action, "the answer is not JSON; is this Superset?", status
            ) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and would fail with a reason that misleads."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def rison(text: str) -> str:
    """Return a string in Rison."""
    return "'" + re.sub(r"(['!])", r"!\1", text) + "'"


def refuse(action: str, status: int, body: bytes, location: str = "") -> NoReturn:
    """Raise what an answer with an error status means."""
    if location:
        raise SupersetError(action, f"redirected; use this address instead: {location}", status)
    reasons = [reason for reason in (message(body), ADVICE.get(status)) if reason]
    reason = "; ".join(reasons) or "no reason given"
    if "CSRF" in reason and "missing" in reason:
        reason += "; Superset gives its cookie to https only: use the https address"
    raise SupersetError(action, reason, status)


def message(body: bytes) -> str:
    """Return the reason in the body of an error: Superset has several forms for it."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return str(answer)
    errors = [error.get("message") or str(error) for error in answer.get("errors") or []]
    said = answer.get("message") or answer.get("msg") or answer.get("error") or ""
    return "; ".join(errors) or (said if isinstance(said, str) else json.dumps(said))


def unreached(url: str, error: Exception) -> str:
    """Return why there was no answer, and what to check."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {url} is not trusted: {cause.verify_message}; give the PEM of the"
            " authority that signed it as ca_certificate, and an address that it names as url"
        )
    if isinstance(cause, TimeoutError | socket.timeout):
        return f"{url} did not answer in time; is it up, and does a firewall let this machine in?"
    if isinstance(cause, ConnectionRefusedError):
        return f"{url} refuses connections; see: systemctl status haproxy on the load balancer"
    return f"{url} cannot be reached: {cause}"
