#!/usr/bin/python3
"""Chromedriver, as far as Selenium in a Superset worker can tell.

The worker's sandbox is no place for a browser, which makes sandboxes of its own, nor a browser's
for the worker's secrets. So systemd starts the real one, superset-browser@.service, for each
connection to its socket, and kills it with everything that it started when the connection closes:
when Selenium stops this process, or when the worker that Selenium runs in is gone.
"""

import argparse
import select
import socket
import sys

SOCKET = "/run/superset-browser.sock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    options, _ = parser.parse_known_args()  # Selenium gives more of them
    with socket.socket(socket.AF_UNIX) as browser:
        browser.connect(SOCKET)
        browser.sendall(f"{options.port}\n".encode())
        closed, _, _ = select.select([browser, sys.stdin], [], [])
        sys.exit(browser in closed)


if __name__ == "__main__":
    main()
