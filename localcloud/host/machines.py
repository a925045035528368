"""Machines: one systemd-nspawn per running instance, on an overlay over its image's layers.

Each machine has at most one job at a time (start, stop, freeze, remove), in a pool of threads;
`Machines.reconcile` compares what is wanted with what is there and starts the jobs that are due.
"""

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from localcloud.cloud import Cloud, CloudError
from localcloud.host import cgroups, guest, network, nspawn
from localcloud.host.images import Images
from localcloud.host.system import persist, remove_tree, run, tail

log = logging.getLogger(__name__)

GRACE_SECONDS = 20  # for a shutdown, before the power is cut
FREEZE_GRACE_SECONDS = 90  # an image deserves a clean file system


@dataclass(frozen=True)
class Spec:
    """What an instance wants of its machine."""

    instance_id: str
    image_id: str
    address: str
    public_key: str  # "" = nobody can log in
    running: bool = True  # False: stopped, its disk is kept


@dataclass
class Freeze:
    """An order to make an image of a machine."""

    reboot: bool
    done: Callable[[list[str], str], None]  # layers (the top one first), or [] and the reason


@dataclass
class Machine:
    """A machine that there is, or is about to be."""

    spec: Spec
    directory: Path
    layers: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    state: str = "new"  # new, running, stopped, failed
    reason: str = ""
    busy: bool = False  # a job works on it
    reboot: bool = False  # is asked for
    freezes: list[Freeze] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)  # "paused", "cut off"; a boot clears them

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"


class Machines:
    """All machines of one cloud.

    `stopped` is called with an instance's id when its machine stopped by itself, `changed` when
    there may be something to do for the next `reconcile`.
    """

    def __init__(
        self,
        cloud: Cloud,
        images: Images,
        block: IPv4Network,
        stopped: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.cloud = cloud
        self.images = images
        self.block = block
        self.stopped = stopped
        self.changed = changed
        self.machines: dict[str, Machine] = {}
        self.orders: dict[str, list[Freeze]] = {}
        self.reboots: set[str] = set()
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="machine")
        self.commands: dict[str, Callable[[str], str]] = {
            "kill": self.kill,
            "pause": self.pause,
            "resume": self.resume,
            "cut": self.cut,
            "join": self.join,
        }

    def freeze(self, instance_id: str, order: Freeze) -> None:
        """Order an image of the instance's machine; it is made as soon as the machine is there."""
        with self.lock:
            self.orders.setdefault(instance_id, []).append(order)

    def restart(self, instance_id: str) -> None:
        """Order a reboot of the instance's machine."""
        with self.lock:
            self.reboots.add(instance_id)

    # ---- faults: each may be asked for again, and returns what is so now; raises CloudError

    def kill(self, instance_id: str) -> str:
        """Cut the power. What follows is up to the instance, or to its group."""
        machine = self._find(instance_id)
        process = machine.process
        if process is None:
            return f"{instance_id}: is off"
        process.kill()
        cgroups.thaw(self.cloud, instance_id)  # else it could not even die
        process.wait()
        self.changed()
        return f"{instance_id}: power cut"

    def pause(self, instance_id: str) -> str:
        """Freeze all that runs in the machine, like a hypervisor that gives it no CPU time."""
        machine = self._running(instance_id)
        cgroups.freeze(self.cloud, instance_id)
        machine.faults.add("paused")
        return f"{instance_id}: paused"

    def resume(self, instance_id: str) -> str:
        machine = self._running(instance_id)
        cgroups.thaw(self.cloud, instance_id)
        machine.faults.discard("paused")
        return f"{instance_id}: runs"

    def cut(self, instance_id: str) -> str:
        """Take the machine off the network. It sees a link, but nothing comes or goes."""
        machine = self._running(instance_id)
        run("ip", "link", "set", self._port(machine), "nomaster")
        machine.faults.add("cut off")
        return f"{instance_id}: off the network"

    def join(self, instance_id: str) -> str:
        machine = self._running(instance_id)
        run("ip", "link", "set", self._port(machine), "master", network.BRIDGE)
        machine.faults.discard("cut off")
        return f"{instance_id}: on the network"

    def _find(self, instance_id: str) -> Machine:
        if machine := self.machines.get(instance_id):
            return machine
        known = ", ".join(sorted(self.machines)) or "none"
        raise CloudError(f"there is no machine of {instance_id}; there are: {known}")

    def _running(self, instance_id: str) -> Machine:
        machine = self._find(instance_id)
        process = machine.process
        if machine.state != "running" or process is None or process.poll() is not None:
            raise CloudError(f"the machine of {instance_id} does not run, it is {machine.state}")
        return machine

    def _port(self, machine: Machine) -> str:
        """Return the name of the machine's port of the bridge. Raises CloudError."""
        init = nspawn.guest_init(machine.process) if machine.process else None
        if init is None:
            raise CloudError(f"the machine of {machine.spec.instance_id} has only begun to boot")
        return network.port(init)

    # ---- the jobs

    def reconcile(self, wanted: Mapping[str, Spec]) -> None:
        """Start the jobs that bring the machines nearer to what is wanted; do not wait for them."""
        with self.lock:
            orders, self.orders = self.orders, {}
            reboots, self.reboots = self.reboots, set()
        for instance_id in wanted.keys() - self.machines.keys():
            directory = self.cloud.machines / instance_id
            self.machines[instance_id] = Machine(wanted[instance_id], directory)
        for instance_id, machine in list(self.machines.items()):
            machine.freezes += orders.pop(instance_id, [])
            machine.reboot |= instance_id in reboots
            if not machine.busy and (job := self._due(machine, wanted.get(instance_id))):
                machine.busy = True
                self.pool.submit(self._work, machine, job)
        for instance_id, left in orders.items():
            for order in left:
                order.done([], f"instance {instance_id} has no machine")

    def _due(self, machine: Machine, spec: Spec | None) -> Callable[[Machine], None] | None:
        """Return the next job of a machine that is not busy; None = it is as wanted."""
        if machine.state == "running" and machine.process and machine.process.poll() is not None:
            return self._follow_exit
        if machine.freezes and machine.state != "new":
            return self._freeze
        if spec is None:
            return self._remove
        machine.spec = spec
        if machine.state == "running":
            if machine.reboot:
                return self._reboot
            return None if spec.running else self._stop
        machine.reboot = False
        if machine.state in ("new", "stopped") and spec.running:
            return self._start
        if machine.state == "failed" and not spec.running:
            return self._stop
        return None

    def _work(self, machine: Machine, job: Callable[[Machine], None]) -> None:
        name = machine.spec.instance_id
        began = time.monotonic()
        try:
            job(machine)
            log.info("%s: %s, %.1f s", name, job.__name__[1:], time.monotonic() - began)
        except (CloudError, OSError) as error:
            machine.state, machine.reason = "failed", str(error)
            log.error("%s: %s failed: %s", name, job.__name__[1:], error)
        except Exception as error:
            machine.state, machine.reason = "failed", repr(error)
            log.exception("%s: %s failed", name, job.__name__[1:])
        finally:
            machine.busy = False
            self.changed()

    def _start(self, machine: Machine) -> None:
        spec = machine.spec
        address = IPv4Address(spec.address)
        if address not in self.block or spec.address in network.own(self.block):
            raise CloudError(
                f"address {address} is not one for instances in {self.block}: "
                "use a subnet in a VPC of this block (SSM parameter /localcloud/vpc_cidr)"
            )
        if machine.upper.exists():
            self._mount(machine)
        else:
            try:
                self._make(machine)
            except BaseException:  # no half-made disk for the next start
                self._halt(machine, 0)
                remove_tree(machine.directory)
                raise
        self._boot(machine)

    def _make(self, machine: Machine) -> None:
        with self.images.lock:
            image = self.images.known.get(machine.spec.image_id)
            if image is None:
                raise CloudError(f"image {machine.spec.image_id} has no file system here")
            machine.layers = list(image.layers)
        for directory in (machine.root, machine.upper, machine.directory / "work"):
            directory.mkdir(parents=True)
        self._mount(machine)
        spec = machine.spec
        guest.prepare(machine.root, spec.address, spec.public_key, self.block)

    def _mount(self, machine: Machine) -> None:
        lower = ":".join(str(path) for path in self.images.paths(machine.layers))
        options = f"lowerdir={lower},upperdir={machine.upper},workdir={machine.directory / 'work'}"
        # Layers are moved and stacked again, so nothing in them may refer to other layers.
        options += ",index=off,metacopy=off,redirect_dir=off"
        run("mount", "-t", "overlay", "overlay", "-o", options, machine.root)

    def _boot(self, machine: Machine) -> None:
        machine.process = nspawn.launch(
            self.cloud, machine.spec.instance_id, machine.root, machine.console
        )
        machine.state, machine.reason = "running", ""
        machine.faults.clear()

    def _halt(self, machine: Machine, grace_seconds: float) -> None:
        """Shut the guest down; after `grace_seconds` cut the power. Then unmount its root.

        A paused guest cannot shut down, so its power is cut at once.
        """
        process = machine.process
        if process is not None:
            deadline = time.monotonic() + (0 if "paused" in machine.faults else grace_seconds)
            while process.poll() is None and time.monotonic() < deadline:
                nspawn.ask_to_halt(process)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            process.kill()
            cgroups.thaw(self.cloud, machine.spec.instance_id)
            process.wait()
            machine.process = None
            for group in cgroups.of(self.cloud):
                cgroups.remove(group / machine.spec.instance_id)
        if os.path.ismount(machine.root):
            persist(lambda: run("umount", machine.root))

    def _stop(self, machine: Machine) -> None:
        self._halt(machine, GRACE_SECONDS)
        machine.state, machine.reason = "stopped", ""

    def _reboot(self, machine: Machine) -> None:
        machine.reboot = False
        self._halt(machine, GRACE_SECONDS)
        self._start(machine)

    def _remove(self, machine: Machine) -> None:
        self._halt(machine, GRACE_SECONDS)
        remove_tree(machine.directory)
        del self.machines[machine.spec.instance_id]
        self.sweep()

    def _follow_exit(self, machine: Machine) -> None:
        """Follow a machine that stopped by itself: a reboot from inside, a poweroff, or a crash."""
        assert machine.process is not None
        status = machine.process.returncode
        self._halt(machine, 0)
        if status == nspawn.REBOOT:
            self._start(machine)
        else:
            machine.state, machine.reason = "stopped", f"stopped by itself, status {status}"
            log.warning(
                "%s: %s\n%s", machine.spec.instance_id, machine.reason, tail(machine.console)
            )
            self.stopped(machine.spec.instance_id)

    def _freeze(self, machine: Machine) -> None:
        """Make an image of the machine.

        With a reboot, as AWS does by default: the machine is shut down, its upper directory
        becomes a layer, and the machine goes on above it with an empty one. Without: the layer is
        a copy, taken while it runs, as consistent as after a power cut.
        """
        order = machine.freezes.pop(0)
        restart = machine.state == "running" and order.reboot
        if restart:
            self._halt(machine, FREEZE_GRACE_SECONDS)
            machine.state = "stopped"
        try:
            layers = self._copy(machine) if machine.process else self._move(machine)
        except (CloudError, OSError) as error:
            order.done([], machine.reason or str(error))
        else:
            order.done(layers, "")
        if restart:
            self._mount(machine)
            self._boot(machine)

    def _copy(self, machine: Machine) -> list[str]:
        run("sync", "--file-system", machine.root)
        copy = ("cp", "--archive", "--reflink=auto", machine.upper)
        return [self.images.add_layer(lambda path: run(*copy, path)), *machine.layers]

    def _move(self, machine: Machine) -> list[str]:
        with self.images.lock:
            machine.layers = [self.images.add_layer(machine.upper.rename), *machine.layers]
        machine.upper.mkdir()
        return machine.layers

    def sweep(self) -> None:
        """Remove the layers that neither an image nor a machine needs."""
        with self.images.lock:  # no machine takes its layers meanwhile
            machines = list(self.machines.values())
            self.images.sweep(layer for machine in machines for layer in machine.layers)

    def report(self) -> list[dict[str, str]]:
        return [
            {
                "instance": machine.spec.instance_id,
                "address": machine.spec.address,
                "image": machine.spec.image_id,
                "state": machine.state,
                "reason": machine.reason or ", ".join(sorted(machine.faults)),
            }
            for machine in list(self.machines.values())
        ]
