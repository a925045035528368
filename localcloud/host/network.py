"""The network of a local cloud.

    guest ── host0 ─┐
                    ├─ bridge br0 (first address, 169.254.169.254) ── cable ── host (second one)
    guest ── host0 ─┘    in the cloud's own network namespace

The bridge with the API and the metadata service is in a network namespace of its own. A cable (a
veth pair) joins it to the host, which is the guests' gateway and masquerades what they send to the
rest of the world. Their way to 169.254.169.254 is the bridge.
"""

import contextlib
import hashlib
import ipaddress
import json
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from localcloud.cloud import Cloud, CloudError
from localcloud.host.system import lock, run

RUN = Path("/run/localcloud")  # what all clouds of this host share: a lock, the changed sysctls
RANGE = IPv4Network("198.18.0.0/15")  # set aside for tests within one's own network (RFC 2544)
PREFIX = 20
OWN_ADDRESSES = 16  # at the start of the block: bridge, host, and room
METADATA = "169.254.169.254"
BRIDGE = "br0"
BRIDGE_MAC = "02:00:00:00:00:01"
NAMESPACES = Path("/run/netns")
SYSCTLS = {  # name → what it must be at least, while a cloud of this host is up
    "net.ipv4.ip_forward": 1,
    "fs.inotify.max_user_instances": 1024,  # a machine takes about 7, of the host's root
}


def bridge_address(block: IPv4Network) -> IPv4Address:
    return block[1]


def host_address(block: IPv4Network) -> IPv4Address:
    return block[2]


def own(block: IPv4Network) -> list[str]:
    """Return the addresses of the block that no instance may have."""
    return [str(block[number]) for number in range(OWN_ADDRESSES)]


def choose_block(seed: str, routed: Iterable[IPv4Network]) -> IPv4Network:
    """Return the block of the cloud `seed` that overlaps with none of the routed networks.

    Raises CloudError when all are taken.
    """
    taken = list(routed)
    blocks = list(RANGE.subnets(new_prefix=PREFIX))
    first = int(hashlib.sha256(seed.encode()).hexdigest(), 16) % len(blocks)
    for block in blocks[first:] + blocks[:first]:
        if not any(block.overlaps(other) for other in taken):
            return block
    raise CloudError(
        f"every /{PREFIX} of {RANGE} is routed elsewhere (`ip route`); "
        "take down a local cloud that is not used"
    )


def routed() -> list[IPv4Network]:
    """Return the networks, other than the default, that this host has routes to."""
    routes = json.loads(run("ip", "-4", "-json", "route", "show", "table", "all"))
    networks = []
    for route in routes:
        with contextlib.suppress(ValueError):  # "default"
            networks.append(ipaddress.IPv4Network(route["dst"], strict=False))
    return [network for network in networks if network.prefixlen]


def namespace(cloud: Cloud) -> Path:
    return NAMESPACES / cloud.name


def table(cloud: Cloud) -> str:
    return cloud.name.replace("-", "_")


def up(cloud: Cloud) -> IPv4Network:
    """Make the cloud's network and return its block."""
    with lock(RUN / "lock"):
        block = choose_block(cloud.tag, routed())
        _namespace(cloud, block)
        _cable(cloud, block)
        _way_out(cloud, block)
        _raise_sysctls()
    return block


def _namespace(cloud: Cloud, block: IPv4Network) -> None:
    # Not `ip netns add`: that leaves a mount on /run/netns behind, for good.
    file = namespace(cloud)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    run("unshare", f"--net={file}", "true")
    inside = ("ip", "-netns", cloud.name)
    run(*inside, "link", "set", "lo", "up")
    # A MAC address of its own: else the bridge has that of a port, until that machine stops.
    run(
        *inside,
        "link",
        "add",
        BRIDGE,
        "address",
        BRIDGE_MAC,
        "type",
        "bridge",
        "forward_delay",
        "0",
    )
    run(*inside, "address", "add", f"{bridge_address(block)}/{PREFIX}", "dev", BRIDGE)
    run(*inside, "address", "add", f"{METADATA}/32", "dev", BRIDGE)
    run(*inside, "link", "set", BRIDGE, "up")
    run(*inside, "route", "add", "default", "via", str(host_address(block)))


def _cable(cloud: Cloud, block: IPv4Network) -> None:
    inside = ("ip", "-netns", cloud.name)
    cable = ("link", "add", cloud.link, "type", "veth", "peer", "name", "host", "netns", cloud.name)
    run("ip", *cable)
    run(*inside, "link", "set", "host", "master", BRIDGE, "up")
    run("ip", "address", "add", f"{host_address(block)}/{PREFIX}", "dev", cloud.link)
    run("ip", "link", "set", cloud.link, "up")


def _way_out(cloud: Cloud, block: IPv4Network) -> None:
    # Guests must meet neither another cloud nor the metadata service of the host itself.
    rules = f"""
    table ip {table(cloud)} {{
      chain out {{
        type nat hook postrouting priority srcnat;
        ip saddr {block} ip daddr != {block} masquerade
      }}
      chain apart {{
        type filter hook forward priority filter;
        iifname "{cloud.link}" ip daddr {{ 169.254.0.0/16, {RANGE} }} drop
      }}
    }}
    """
    run("nft", "-f", "-", input=rules)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))


def _raise_sysctls() -> None:
    for name, needed in SYSCTLS.items():
        before = _sysctl(name).read_text().strip()
        if int(before) < needed:
            (RUN / name).write_text(before)  # first, so that a crash in between is harmless
            _sysctl(name).write_text(str(needed))


def _restore_sysctls() -> None:
    for before in [RUN / name for name in SYSCTLS]:
        if before.exists():
            _sysctl(before.name).write_text(before.read_text())
            before.unlink()


def port(process: int) -> str:
    """Return the name of the bridge's port that leads to the guest which `process` runs in.

    It is found inside the cloud's network namespace only. Raises CloudError.
    """
    guest = ("nsenter", f"--net=/proc/{process}/ns/net")
    [cable] = json.loads(run(*guest, "ip", "-json", "link", "show", "host0"))
    for link in json.loads(run("ip", "-json", "link", "show")):
        if link["ifindex"] == cable["link_index"]:
            return str(link["ifname"])
    raise CloudError(f"the bridge has no port for the machine of process {process}")


def down(cloud: Cloud) -> None:
    """Remove what there is of the cloud's network. The host's last cloud restores the sysctls."""
    with lock(RUN / "lock"):
        links = json.loads(run("ip", "-json", "link", "show"))
        if any(link["ifname"] == cloud.link for link in links):
            run("ip", "link", "delete", cloud.link)
        tables = run("nft", "list", "tables", "ip").split()
        if table(cloud) in tables:
            run("nft", "delete", "table", "ip", table(cloud))
        file = namespace(cloud)
        if file.exists():
            if str(file) in Path("/proc/self/mountinfo").read_text():
                run("umount", file)
            file.unlink()
            with contextlib.suppress(OSError):  # others have namespaces there
                NAMESPACES.rmdir()
        others = {name for name in tables if name.startswith("localcloud_")} - {table(cloud)}
        if not others:
            _restore_sysctls()
