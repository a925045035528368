"""What ./fleet does on this machine: python -m rehearsal up | down | test | soak."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from rehearsal import proof
from rehearsal.local import down, up
from rehearsal.locks import Held, locked
from rehearsal.steps import ROOT, STATE, Failed

SOAK = ROOT / "benchmarks/soak"


def soak(arguments: list[str]) -> None:
    """Run a measurement in place of this process; list them where none is named."""
    known = sorted(path.stem for path in SOAK.glob("*.py"))
    if not arguments:
        print("\n".join(known))
    elif arguments[0] in known:
        os.execv(sys.executable, [sys.executable, str(SOAK / f"{arguments[0]}.py"), *arguments[1:]])
    else:
        raise Failed(f"no such measurement: {arguments[0]} (one of: {', '.join(known)})")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="./fleet", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="make the local cloud and the whole fleet")
    taken = commands.add_parser("down", help="take the local cloud down; images are kept")
    taken.add_argument("--purge", action="store_true", help="keep nothing")
    tests = commands.add_parser("test", help="run all tests, or some")
    tests.add_argument("names", metavar="PART", nargs="*", help=", ".join(proof.names()))
    tests.add_argument(
        "--changed", metavar="BASE", help="what a change since BASE can have touched"
    )
    measured = commands.add_parser("soak", help="a long measurement; without a name: the list")
    measured.add_argument("arguments", nargs=argparse.REMAINDER)
    return top


def main() -> int:
    """Run a command. Return 1 where it failed, 130 where it was interrupted."""
    # So that what it started is stopped, as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = parser().parse_args()
    try:
        match chosen.command:
            case "up" | "down":
                with locked(STATE / "fleet.lock"):
                    up() if chosen.command == "up" else down(chosen.purge)
            case "test":
                return proof.prove(chosen.names, chosen.changed)
            case "soak":
                soak(chosen.arguments)
    except Held as holder:
        print(f"fleet: {holder} is another ./fleet up or down in this checkout", file=sys.stderr)
        return 1
    except Failed as failure:
        print(f"fleet: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nfleet: interrupted; ./fleet {chosen.command} can be run again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
