"""Filters of the fleet's plays: what would be a program in Jinja."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def group_roles(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the role of each group of `fleet_groups`: its own name unless it says another."""
    return {name: str(group.get("role", name)) for name, group in groups.items()}


def groups_of(roles: Mapping[str, str], wanted: Iterable[str]) -> list[str]:
    """Return the groups that have one of the wanted roles, role by role in that order.

    `roles` is the role of each group.
    """
    return [group for role in wanted for group in roles if roles[group] == role]


def numbered(instances: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return each machine of `fleet_instances`, as its role and its number from one."""
    return [
        {"role": role, "number": number}
        for role, count in instances.items()
        for number in range(1, int(count) + 1)
    ]


def parent_image(survey: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the image that the next one is made on.

    With the kind `newest` that is the fleet's newest image, where it was made on the newest base
    image; else the newest base image itself. `survey` is what the module fleet_survey returns.
    """
    base: dict[str, Any] = survey["base_images"][-1]
    usable = [image for image in survey["images"] if image["tags"].get("base") == base["image_id"]]
    return usable[-1] if usable and kind == "newest" else base


def certificate_names(machines: Iterable[Mapping[str, Any]], hostname: str) -> list[str]:
    """Return what a certificate is for: a host name, and the machines' addresses, in order.

    `machines` are instances as the module ec2_instance returns them.
    """
    addresses = [
        machine[which]
        for machine in machines
        for which in ("private_ip_address", "public_ip_address")
        if machine.get(which)
    ]
    return sorted([f"DNS:{hostname}", *(f"IP:{address}" for address in addresses)])


class FilterModule:
    """The filters, for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return them by name."""
        return {
            each.__name__: each
            for each in (group_roles, groups_of, numbered, parent_image, certificate_names)
        }
