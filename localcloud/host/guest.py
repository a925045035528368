"""What is written into a machine's root file system before its first boot."""

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from localcloud.host import network
from localcloud.host.system import run

NETWORK_FILE = """\
[Match]
Name=host0

[Link]
MACAddress={mac}

[Network]
Address={address}/{prefix}
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no

[Route]
Destination={metadata}/32
Gateway={bridge}
"""


def prepare(root: Path, address: str, public_key: str, block: IPv4Network) -> None:
    """Write into a fresh root what makes it this machine and no other: names, address, keys.

    `public_key` may log in; "" = nobody can.
    """
    hostname = f"ip-{address.replace('.', '-')}"
    lay(root / "etc/hostname", f"{hostname}\n")
    lay(root / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n")
    lay(root / "etc/resolv.conf", resolvers())
    lay(root / "etc/machine-id", "")  # made at boot
    network_file = NETWORK_FILE.format(
        # Made of the address: who talked to its former owner does not wait for ARP to forget.
        mac="02:00:" + IPv4Address(address).packed.hex(":"),
        address=address,
        prefix=block.prefixlen,
        gateway=network.host_address(block),
        metadata=network.METADATA,
        bridge=network.bridge_address(block),
    )
    lay(root / "etc/systemd/network/10-host0.network", network_file)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    key = root / "etc/ssh/ssh_host_ed25519_key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", hostname, "-f", key)
    home = root / "home/admin"
    owner = home.stat()
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    lay(
        home / ".ssh/authorized_keys",
        f"{public_key.strip()}\n" if public_key else "",
        0o600,
    )
    for path in (home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, owner.st_uid, owner.st_gid)


def lay(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of a guest, never through a link that the guest may have put there."""
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def resolvers() -> str:
    """Return the host's resolv.conf; with systemd-resolved the one that names real servers."""
    behind_stub = Path("/run/systemd/resolve/resolv.conf")
    return (behind_stub if behind_stub.exists() else Path("/etc/resolv.conf")).read_text()
