"""The parts that need no machine."""

import base64
from ipaddress import IPv4Network

import pytest

from localcloud.api.autoscaling.lifecycle import TERMINATING, Action, Hook
from localcloud.api.autoscaling.members import next_zone
from localcloud.api.autoscaling.refresh import Bounds
from localcloud.api.metadata import Identity, find, tree
from localcloud.api.services import service_of
from localcloud.cloud import CloudError
from localcloud.host import network
from localcloud.host.base import reaches_guests
from localcloud.host.preflight import GIB, PACKAGES, Problem, message, missing_commands, short

IDENTITY = Identity(
    instance_id="i-1",
    image_id="ami-1",
    instance_type="t3.small",
    address="198.18.0.20",
    hostname="ip-198-18-0-20.ec2.internal",
    zone="us-east-1b",
    region="us-east-1",
    account="123456789012",
    launched="2026-01-01T00:00:00Z",
    public_key="ssh-ed25519 AAAA",
    user_data=base64.b64encode(b"#!/bin/sh\n").decode(),
    tags={"role": "redis", "queues": "sql_lab charts", "aws:autoscaling:groupName": "workers"},
)


def test_the_preflight_tells_every_problem_with_its_remedy() -> None:
    text = message([Problem("no root", "sudo ./fleet up"), Problem("no nft", "apt-get install it")])
    assert text.splitlines()[1:] == [
        "  - no root",
        "      sudo ./fleet up",
        "  - no nft",
        "      apt-get install it",
    ]


def test_a_missing_command_names_its_package() -> None:
    have = set(PACKAGES) - {"systemd-nspawn", "nft"}
    assert [problem.remedy for problem in missing_commands(have)] == [
        "apt-get install systemd-container",
        "apt-get install nftables",
    ]


def test_scarce_memory_is_told_in_gib() -> None:
    assert short("memory", 6 * GIB, 6, "") == []
    [problem] = short("memory", 5 * GIB + GIB // 2, 6, "add memory")
    assert problem.what == "memory: 5.5 GiB free, 6 GiB are needed"


def test_the_block_of_a_checkout_is_always_the_same_one() -> None:
    assert network.choose_block("a", []) == network.choose_block("a", [])
    assert network.choose_block("a", []).subnet_of(network.RANGE)


def test_a_block_that_is_routed_elsewhere_is_passed_over() -> None:
    first = network.choose_block("a", [])
    host = IPv4Network(f"{first[7]}/32")
    assert not network.choose_block("a", [host]).overlaps(first)


def test_no_free_block_is_an_error() -> None:
    with pytest.raises(CloudError, match="take down a local cloud"):
        network.choose_block("a", [network.RANGE])


def test_a_newcomer_goes_where_the_fewest_members_are() -> None:
    assert next_zone(["a", "b", "c"], []) == "a"
    assert next_zone(["a", "b", "c"], ["a", "c", "a"]) == "b"


@pytest.mark.parametrize(("heartbeat", "last"), [(7200, 48 * 3600), (30, 3000)])
def test_heartbeats_help_for_two_days_or_a_hundred_heartbeats(heartbeat: int, last: int) -> None:
    """DescribeLifecycleHooks: GlobalTimeout."""
    action = Action(Hook("leave", TERMINATING, heartbeat), began=10)
    assert action.deadline == 10 + heartbeat
    action.beat = last
    assert action.deadline == 10 + last


@pytest.mark.parametrize(
    ("desired", "minimum", "maximum", "bounds"),
    [
        (3, 90, None, (2, 3)),  # no room: one goes as one comes
        (10, 90, None, (9, 10)),
        (3, 100, 100, (3, 4)),  # no room, but a maximum is given: one comes first
        (3, 100, 110, (3, 4)),
        (4, 50, 150, (2, 6)),
        (10, 0, None, (0, 10)),
        (0, 90, None, (0, 0)),
    ],
)
def test_a_refresh_keeps_to_its_percentages_and_replaces_one_at_least(
    desired: int, minimum: int, maximum: int | None, bounds: tuple[int, int]
) -> None:
    """RefreshPreferences: MinHealthyPercentage, MaxHealthyPercentage."""
    assert Bounds.of(desired, minimum, maximum) == Bounds(*bounds)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("meta-data/instance-id", "i-1"),
        ("meta-data/placement/region", "us-east-1"),
        ("meta-data/placement/", "availability-zone\nregion"),
        ("meta-data/tags/instance/role", "redis"),
        ("meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA"),
        ("user-data", "#!/bin/sh\n"),
        ("meta-data/autoscaling/target-lifecycle-state", None),
        ("meta-data/iam", None),
        ("meta-data/instance-id/more", None),
    ],
)
def test_metadata_by_path(path: str, text: str | None) -> None:
    assert find(tree(IDENTITY), path) == text


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("https_proxy", "http://proxy:3128", True),
        ("NO_PROXY", "localhost", True),
        ("PIP_INDEX_URL", "https://mirror/simple", True),
        ("UV_DEFAULT_INDEX", "https://mirror/simple", True),
        ("PIP_EXTRA_INDEX_URL", "file:///srv/wheels", False),
        ("PIP_FIND_LINKS", "/srv/wheels", False),
        ("PATH", "/usr/bin", False),
    ],
)
def test_only_settings_that_hold_in_a_guest_are_taken_over(
    name: str, value: str, wanted: bool
) -> None:
    assert reaches_guests(name, value) is wanted


def test_the_service_is_in_the_signature() -> None:
    signature = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/ec2/aws4_request, SignedHeaders"
    assert service_of(signature) == "ec2"
    assert service_of("") == ""
