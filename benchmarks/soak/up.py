"""How long the fleet takes to stand, from nothing and from what is cached, and what it weighs.

Run as root by `./fleet soak up`; stops and removes this checkout's local fleet first, leaves it up.
Prints a table in Markdown: seconds of wall time, MiB of memory (proportional set size of every
process in the machines).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def timed(*command: str) -> tuple[float, str]:
    """Run a command in the checkout and return the seconds it took and what it printed."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return time.monotonic() - start, done.stdout


def machines_mib() -> float:
    """Return the memory of all processes in other pid namespaces than ours, in MiB."""
    own = Path("/proc/self/ns/pid").readlink()
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/pid").readlink() != own:
                found = re.search(r"^Pss: +(\d+)", (process / "smaps_rollup").read_text(), re.M)
                total += int(found[1]) if found else 0
        except OSError:
            continue  # it exited while we looked, or is the kernel's
    return total / 1024


def forget_baked_images() -> None:
    """Deregister the fleet's own images in the local cloud, which is up."""
    from boto3 import Session  # of .venv, which the first `./fleet up` has made

    os.environ["AWS_CONFIG_FILE"] = str(ROOT / ".localcloud/aws.ini")
    ec2 = Session().resource("ec2")
    for image in ec2.images.filter(Filters=[{"Name": "tag:kind", "Values": ["superset"]}]):
        image.deregister()


def main() -> None:
    """Measure and print."""
    rows = []

    def measure(what: str, *command: str) -> str:
        seconds, output = timed(*command)
        rows.append((what, f"{seconds:.0f} s"))
        print(f"{what}: {seconds:.0f} s", flush=True)
        return output

    timed("./fleet", "down", "--purge")
    for made in ROOT.glob(".venv*"):
        made.unlink() if made.is_file() or made.is_symlink() else shutil.rmtree(made)
    measure("`./fleet up`, nothing cached", "./fleet", "up")
    rows.append(("the machines together", f"{machines_mib():.0f} MiB"))
    recap = measure("second `site.yml`", ".venv/bin/ansible-playbook", "playbooks/site.yml")
    changed = sum(int(number) for number in re.findall(r"changed=(\d+)", recap))
    rows.append(("… changed", str(changed)))
    measure("`./fleet down`", "./fleet", "down")
    measure("`./fleet up`, base and baked image cached", "./fleet", "up")
    forget_baked_images()
    timed("./fleet", "down")
    measure("`./fleet up`, base image cached", "./fleet", "up")
    print("\n| what | figure |\n|---|---|")
    print("\n".join(f"| {what} | {figure} |" for what, figure in rows))


if __name__ == "__main__":
    main()
