"""What a machine learns about itself, from the metadata service of the local cloud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from superset_fleet.cloud.metadata import LIFECYCLE, Identity, Metadata, MetadataError
from tests.support import metadata_server
from tests.support.metadata_server import Imds


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Imds]:
    with metadata_server.serve() as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        yield service


def test_a_machine_learns_which_one_of_which_fleet_it_is(imds: Imds) -> None:
    group = "superset-superset_web"
    assert Metadata().identity() == Identity(
        "i-1", "us-east-1", "superset", "superset_web", group, []
    )


def test_a_machine_learns_the_queues_of_its_group(imds: Imds) -> None:
    imds.say(tags={"fleet": "superset", "role": "celery_worker", "queues": "sql_lab charts"})
    me = Metadata().identity()
    assert (me.queues, me.group) == (["sql_lab", "charts"], "")


def test_what_is_not_there_is_none_and_no_error(imds: Imds) -> None:
    assert Metadata().get("user-data") is None


def test_a_token_whose_time_is_over_is_replaced(imds: Imds) -> None:
    metadata = Metadata()
    assert metadata.get(LIFECYCLE) == "InService"
    imds.service.tokens.clear()
    imds.say(lifecycle_state="Terminated")
    assert metadata.get(LIFECYCLE) == "Terminated"


@pytest.mark.parametrize("tag", ["fleet", "role"])
def test_a_tag_that_is_missing_is_named_with_what_to_do(imds: Imds, tag: str) -> None:
    imds.say(tags={key: value for key, value in imds.identity.tags.items() if key != tag})
    with pytest.raises(MetadataError, match=f"tags/instance/{tag} is missing: .*_metadata_tags"):
        Metadata().identity()


def test_a_service_that_does_not_answer_is_named_with_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(MetadataError, match=r"http://127\.0\.0\.1:1 does not answer"):
        Metadata().identity()
