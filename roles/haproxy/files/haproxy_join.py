#!/usr/bin/python3
"""Make haproxy.cfg of what Ansible wrote and the servers of the moment; or save their state.

haproxy.cfg is replaced only by what HAProxy accepts. The servers' file is written by a service
with fewer rights, so nothing but names and addresses is taken from it.
"""

import re
import socket
import subprocess
import sys
from pathlib import Path

WRITTEN = Path("/etc/haproxy/fleet.cfg")
SERVERS = Path("/var/lib/haproxy-membership/servers.cfg")
JOINED = Path("/etc/haproxy/haproxy.cfg")
SOCKET = "/run/haproxy/admin.sock"
STATE = Path("/var/lib/haproxy/servers.state")

MARK = "    # haproxy-join: servers\n"
SERVER = re.compile(r"    server [A-Za-z0-9._-]+ [0-9A-Fa-f.:\[\]]+\n", re.ASCII)


def joined(written: str, servers: str) -> str:
    """Return the configuration with the servers in it."""
    lines = filter(SERVER.fullmatch, servers.splitlines(keepends=True))
    return written.replace(MARK, "".join(lines))


def join() -> None:
    """Write haproxy.cfg."""
    servers = SERVERS.read_text() if SERVERS.exists() else ""
    text = joined(WRITTEN.read_text(), servers)
    if JOINED.exists() and JOINED.read_text() == text:
        return  # no time is lost while HAProxy is restarted
    new = JOINED.with_suffix(".new")
    new.write_text(text)
    check = subprocess.run(["haproxy", "-c", "-q", "-f", str(new)], check=False)
    if check.returncode:
        sys.exit(f"haproxy-join: HAProxy refuses {new}; {JOINED} stays as it was")
    new.replace(JOINED)


def save_state() -> None:
    """Write what HAProxy says of its servers; nothing where it says nothing, and go on."""
    try:
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.settimeout(5)
            runtime.connect(SOCKET)
            runtime.sendall(b"show servers state\n")
            state = runtime.makefile("rb").read()
    except OSError as error:
        print(f"haproxy-join: the servers' state is not saved: {error}")
        state = b"1\n"
    new = STATE.with_suffix(".new")
    new.write_bytes(state)
    new.replace(STATE)


if __name__ == "__main__":
    save_state() if sys.argv[1:] == ["--save-state"] else join()
