"""Instance refreshes: members are replaced while the group goes on working.

Docstrings name the page of Amazon EC2 Auto Scaling's user guide, or the action of its API
reference, that says so.
"""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.localcloud.conftest import Group, wait

NewGroup = Callable[..., Group]
ONE_MORE_FIRST: dict[str, Any] = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 110}


def begin(group: Group, version: str = "", **preferences: Any) -> str:
    """Start a refresh, to that version of the group's launch template."""
    template = {"LaunchTemplate": {"LaunchTemplateId": group.template, "Version": version}}
    started = group.api.start_instance_refresh(
        AutoScalingGroupName=group.name,
        Preferences={"InstanceWarmup": 0, **preferences},
        **({"DesiredConfiguration": template} if version else {}),
    )
    return str(started["InstanceRefreshId"])


def told(group: Group) -> dict[str, Any]:
    """The newest refresh."""
    refreshes = group.api.describe_instance_refreshes(AutoScalingGroupName=group.name)
    refresh: dict[str, Any] = refreshes["InstanceRefreshes"][0]
    return refresh


def becomes(group: Group, status: str) -> dict[str, Any]:
    wait(f"the refresh is {status}", lambda: told(group)["Status"] == status)
    return told(group)


def newcomer(group: Group) -> str:
    """The member that waits for the hook `launch`."""
    return str(wait("a newcomer", lambda: group.names("Pending:Wait"))[0])


def test_one_more_first_then_one_fewer(new_group: NewGroup) -> None:
    """How an instance refresh works: launch before terminating, by MaxHealthyPercentage.

    Once it succeeds, the group has the desired configuration.
    """
    group = new_group(version="1")
    group.hook("launch", "LAUNCHING")
    refresh = begin(group, group.new_version(), **ONE_MORE_FIRST)
    for done in range(3):
        name = newcomer(group)
        assert group.states() == {"InService": 3, "Pending:Wait": 1}
        now = told(group)
        assert (now["InstancesToUpdate"], now["PercentageComplete"]) == (3 - done, 100 * done // 3)
        assert now["Status"] == "InProgress"
        assert group.describe()["LaunchTemplate"]["Version"] == "1"
        group.complete("launch", name)
    finished = becomes(group, "Successful")
    assert (finished["InstanceRefreshId"], finished["PercentageComplete"]) == (refresh, 100)
    assert finished["InstancesToUpdate"] == 0 and finished["StartTime"] <= finished["EndTime"]
    assert group.versions() == ["2", "2", "2"] and group.states() == {"InService": 3}
    assert group.zones() == [1, 1, 1]
    assert group.describe()["LaunchTemplate"]["Version"] == "2"
    causes = " ".join(activity["Cause"] for activity in group.activities())
    assert causes.count("an instance was launched in response to an instance refresh.") == 3
    assert causes.count("taken out of service in response to an instance refresh.") == 3


def test_without_a_maximum_one_goes_as_one_comes(new_group: NewGroup) -> None:
    """StartInstanceRefresh: RefreshPreferences, MaxHealthyPercentage omitted, 90 % by default."""
    group = new_group()
    group.hook("launch", "LAUNCHING")
    before = set(group.names())
    begin(group)
    for _ in range(3):
        name = newcomer(group)
        assert group.states() == {"InService": 2, "Pending:Wait": 1}
        group.complete("launch", name)
    becomes(group, "Successful")
    assert not before & set(group.names())


def test_who_leaves_waits_for_its_hook(new_group: NewGroup) -> None:
    """How lifecycle hooks work: whatever the reason, an instance refresh too."""
    group = new_group(DesiredCapacity=1)
    group.hook("leave", "TERMINATING")
    old = group.names()
    begin(group, **ONE_MORE_FIRST)
    wait("the old one leaves", lambda: group.names("Terminating:Wait") == old)
    assert group.states() == {"InService": 1, "Terminating:Wait": 1}
    group.complete("leave", old[0])
    becomes(group, "Successful")


def test_a_newcomer_counts_when_it_is_warm(new_group: NewGroup) -> None:
    """Set the default instance warmup; RefreshPreferences, InstanceWarmup."""
    group = new_group(DesiredCapacity=1)
    begin(group, InstanceWarmup=600, **ONE_MORE_FIRST)
    wait("a newcomer", lambda: len(group.members()) == 2)
    group.cloud.forward(570)  # the rest is for what the calls themselves take
    assert group.states() == {"InService": 2} and told(group)["PercentageComplete"] == 0
    group.cloud.forward(30)
    becomes(group, "Successful")
    assert len(group.members()) == 1


def test_members_that_are_as_wanted_can_be_skipped(new_group: NewGroup) -> None:
    """Use an instance refresh with skip matching."""
    group = new_group(version="1")
    template = {"LaunchTemplateId": group.template, "Version": group.new_version()}
    group.api.update_auto_scaling_group(AutoScalingGroupName=group.name, LaunchTemplate=template)
    group.scale(4)
    before = set(group.names())
    begin(group, SkipMatching=True, **ONE_MORE_FIRST)
    becomes(group, "Successful")
    assert group.versions() == ["2"] * 4
    assert len(before & set(group.names())) == 1


def test_a_refresh_is_cancelled_and_what_it_did_stays(new_group: NewGroup) -> None:
    """Cancel an instance refresh; CancelInstanceRefresh, StartInstanceRefresh: errors."""
    group = new_group(version="1")
    group.hook("launch", "LAUNCHING")
    begin(group, group.new_version(), **ONE_MORE_FIRST)
    group.complete("launch", newcomer(group))
    second = newcomer(group)
    with pytest.raises(ClientError, match="InstanceRefreshInProgress"):
        begin(group)
    group.api.cancel_instance_refresh(AutoScalingGroupName=group.name)
    assert told(group)["Status"] == "Cancelling"
    group.cloud.ec2.terminate_instances(InstanceIds=[second])
    becomes(group, "Cancelled")
    assert group.states() == {"InService": 3}
    assert group.versions() == ["1", "1", "2"]
    assert group.describe()["LaunchTemplate"]["Version"] == "1"
    for action in ("cancel_instance_refresh", "rollback_instance_refresh"):
        with pytest.raises(ClientError, match="ActiveInstanceRefreshNotFound"):
            getattr(group.api, action)(AutoScalingGroupName=group.name)


def test_a_refresh_is_rolled_back(new_group: NewGroup) -> None:
    """Undo changes with a rollback; RollbackInstanceRefresh."""
    group = new_group(version="1")
    group.hook("launch", "LAUNCHING")
    begin(group, group.new_version(), **ONE_MORE_FIRST)
    group.complete("launch", newcomer(group))
    wait("one is replaced", lambda: told(group)["PercentageComplete"] == 33)
    group.api.rollback_instance_refresh(AutoScalingGroupName=group.name)
    assert told(group)["Status"] == "RollbackInProgress"
    assert told(group)["RollbackDetails"]["PercentageCompleteOnRollback"] == 33

    def rolled_back() -> bool:
        for name in group.names("Pending:Wait"):
            group.complete("launch", name)
        assert group.states()["InService"] >= 3
        return bool(told(group)["Status"] == "RollbackSuccessful")

    wait("rolled back", rolled_back)
    assert (group.versions(), told(group)["PercentageComplete"]) == (["1", "1", "1"], 0)


def test_a_refresh_that_gets_nowhere_fails_and_goes_back_when_told_so(new_group: NewGroup) -> None:
    """Troubleshoot an instance refresh; RefreshPreferences: AutoRollback."""
    group = new_group(version="1", DesiredCapacity=1)
    group.hook("launch", "LAUNCHING", HeartbeatTimeout=7200)
    version = group.new_version()
    begin(group, version, **ONE_MORE_FIRST)
    newcomer(group)
    group.cloud.forward(3601)
    failed = becomes(group, "Failed")
    assert failed["StatusReason"] == "No instance was replaced for 3600 seconds."
    wait("only the old one is left", lambda: group.versions() == ["1"])
    begin(group, version, AutoRollback=True, **ONE_MORE_FIRST)
    newcomer(group)
    group.cloud.forward(3601)
    becomes(group, "RollbackSuccessful")
    assert group.versions() == ["1"] and group.states() == {"InService": 1}


def test_without_two_fixed_configurations_there_is_no_way_back(new_group: NewGroup) -> None:
    """RollbackInstanceRefresh: not where the group uses $Latest or $Default."""
    group = new_group(version="$Default")
    group.hook("launch", "LAUNCHING")
    version = group.new_version()
    with pytest.raises(ClientError, match="AutoRollback needs"):
        begin(group, version, AutoRollback=True)
    begin(group, version)
    with pytest.raises(ClientError, match="IrreversibleInstanceRefresh"):
        group.api.rollback_instance_refresh(AutoScalingGroupName=group.name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"MaxHealthyPercentage": 110},
        {"MinHealthyPercentage": 50, "MaxHealthyPercentage": 160},
        {"MinHealthyPercentage": 101},
        {"CheckpointPercentages": [50]},
    ],
)
def test_preferences_that_make_no_sense_or_are_not_emulated_are_refused(
    group: Group, wrong: dict[str, Any]
) -> None:
    """RefreshPreferences: value ranges."""
    with pytest.raises(ClientError, match="ValidationError"):
        begin(group, **wrong)
    assert (
        group.api.describe_instance_refreshes(AutoScalingGroupName=group.name)["InstanceRefreshes"]
        == []
    )
