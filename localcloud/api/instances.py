"""Between EC2's instances and their machines: what an instance says about its machine, and what
it is told about itself."""

import time
from collections.abc import Container

from moto.ec2.models.instances import Instance

from localcloud.api import ec2
from localcloud.api.autoscaling.backend import Backend as Groups
from localcloud.api.metadata import Identity
from localcloud.cloud import REGION
from localcloud.host.machines import Spec

FORGET_SECONDS = 600  # a terminated instance is described for so long; AWS: for about an hour


class Instances:
    """The instances of one cloud. Callers hold the lock of the API."""

    def __init__(self, backend: ec2.Backend, groups: Groups, account: str) -> None:
        self.ec2 = backend
        self.groups = groups
        self.account = account
        self.terminated: dict[str, float] = {}  # instance id → when we saw it (monotonic)

    def wanted(self, machines: Container[str]) -> dict[str, Spec]:
        """Return the machines that the instances call for, by the ids of the instances.

        `machines`: ids of the instances that have a machine now. Forgets instances that were
        terminated long ago.
        """
        now = time.monotonic()
        specs = {}
        for reservation_id, reservation in list(self.ec2.reservations.items()):
            for instance in list(reservation.instances):
                if instance.state != "terminated":
                    specs[instance.id] = self._spec(instance)
                    continue
                if instance.id not in machines:
                    self._release(instance)
                if now - self.terminated.setdefault(instance.id, now) > FORGET_SECONDS:
                    reservation.instances.remove(instance)
                    self.ec2.tags.pop(instance.id, None)
                    del self.terminated[instance.id]
            if not reservation.instances:
                del self.ec2.reservations[reservation_id]
        return specs

    def machine_stopped(self, instance_id: str) -> None:
        """The machine of an instance stopped by itself: so does the instance.

        It is terminated instead when it is a member of a group, which replaces it, or when its
        shutdown behavior says so.
        """
        instance = self.ec2.get_instance_by_id(instance_id)
        if instance is None or instance.state != "running":
            return
        if self.groups.member(instance_id):
            self.ec2.terminate_instances([instance_id])
            self.groups.notify_terminate_instances([instance_id])
        elif instance.instance_initiated_shutdown_behavior == "terminate":
            self.ec2.terminate_instances([instance_id])
        else:
            self.ec2.stop_instances([instance_id])

    def identify(self, address: str) -> Identity | None:
        """Return what the instance at an address is told about itself; None = there is none."""
        for instance in self.ec2.all_running_instances():
            if instance.private_ip == address:
                return self._identity(instance)
        return None

    def _release(self, instance: Instance) -> None:
        """Give back the address; moto would, but only when it forgets the instance."""
        for address in instance._private_ips:
            self.ec2.get_subnet(instance.subnet_id or "").del_subnet_ip(address)
        instance._private_ips = set()

    def _spec(self, instance: Instance) -> Spec:
        return Spec(
            instance.id,
            instance.image_id,
            instance.private_ip or "",
            self._public_key(instance),
            running=instance.state == "running",
        )

    def _public_key(self, instance: Instance) -> str:
        pair = self.ec2.key_pairs.get(instance.key_name or "")
        return pair.public_key.strip() if pair else ""

    def _identity(self, instance: Instance) -> Identity:
        member = self.groups.member(instance.id)
        association = self.ec2.iam_instance_profile_associations.get(instance.id)
        roles = association.iam_instance_profile.roles if association else []
        return Identity(
            instance_id=instance.id,
            image_id=instance.image_id,
            instance_type=instance.instance_type,
            address=instance.private_ip or "",
            hostname=instance.private_dns_name,
            zone=instance.availability_zone or "",
            region=REGION,
            account=self.account,
            launched=instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            public_key=self._public_key(instance),
            role=roles[0].name if roles else "",
            lifecycle_state=member.target if member else "",
            user_data=str(instance.user_data or ""),
            tags=dict(self.ec2.tags.get(instance.id, {})),
        )
