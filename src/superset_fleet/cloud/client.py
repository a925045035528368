"""Clients for the few AWS calls that the fleet makes, and their errors in plain words.

botocore alone, with service models cut down to what is read (models/): a client of the whole EC2
takes longer to make than the call it is made for, and parses 60 fields to get at one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.parsers
import botocore.session

MODELS = Path(__file__).parent / "models"
ATTEMPTS = 6  # with botocore's standard back-off about half a minute; AWS_MAX_ATTEMPTS changes it
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0

REFUSED = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
THROTTLED = {"RequestLimitExceeded", "Throttling", "ThrottlingException"}


class Loader(botocore.loaders.Loader):  # type: ignore[misc]
    """botocore's data, with the models of this package before its own."""

    def __init__(self) -> None:
        super().__init__([str(MODELS)])

    def list_available_services(self, type_name: str) -> list[str]:
        """Return what there are models for, without a look at botocore's 400."""
        return [path.name for path in MODELS.iterdir()]


class AwsError(Exception):
    """AWS did not do it; the message names the thing and the remedy, in one line.

    The cause is what botocore raised.
    """

    @property
    def code(self) -> str:
        """AWS's name of the error; empty where it is not AWS's."""
        cause = self.__cause__
        if not isinstance(cause, botocore.exceptions.ClientError):
            return ""
        return str(cause.response.get("Error", {}).get("Code", ""))


def backoff(failures: int) -> float:
    """Return for how many seconds to wait before the next try, after so many failures in a row.

    Anything between nothing and a time that doubles ("full jitter"): of many machines that try
    together, each next try finds fewer at the same moment.
    """
    doubled = SHORTEST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10)
    return random.uniform(0, min(doubled, LONGEST_PAUSE_SECONDS))


def session(
    config_file: Path | None = None, profile: str | None = None, every_call: bool = False
) -> Any:
    """Return a botocore session, for the calls of models/ alone unless told otherwise.

    With config_file, region, endpoint and credentials come from that file alone and not from the
    environment or the user's own files, so credentials of one cloud never reach the other.

    Raises AwsError when config_file is missing.
    """
    made = botocore.session.Session()
    if config_file:
        if not config_file.is_file():
            raise AwsError(f"{config_file} is missing: the local cloud is not up: run ./fleet up")
        made.set_config_variable("config_file", str(config_file))
        made.set_config_variable("credentials_file", str(config_file))
        profile = profile or "default"  # a profile by name takes precedence over the environment
    if profile:
        made.set_config_variable("profile", profile)
    if not every_call:
        made.register_component("data_loader", Loader())
    return made


def patient(config_file: Path | None) -> Any:
    """Return a session for a process that waits until AWS has answered, and so tries for ever.

    Its clients try once: the pauses are those of `backoff`, not botocore's between them.
    """
    made = session(config_file)
    made.set_config_variable("max_attempts", 1)
    return made


def client(
    made: Any,
    service: str,
    region: str,
    endpoint_url: str | None = None,
    timeout_seconds: float | None = None,
) -> Any:
    """Return a client of a service, able to do the calls that its session has models of.

    With timeout_seconds, who waits so long for a connection, or for an answer, gives up: less than
    what is usual, for who has more to do. Making clients is not safe in threads, using them is.
    """
    retries = {}
    if made.get_config_variable("max_attempts") is None:
        retries["total_max_attempts"] = ATTEMPTS
    config = botocore.config.Config(
        connect_timeout=timeout_seconds or 5, read_timeout=timeout_seconds or 30, retries=retries
    )
    return made.create_client(service, region_name=region, endpoint_url=endpoint_url, config=config)


def pages(call: Callable[..., Any], **wanted: Any) -> Iterator[Any]:
    """Yield every page of the answer to a call."""
    page = call(**wanted)
    yield page
    while token := page.get("NextToken"):
        page = call(**wanted, NextToken=token)
        yield page


def parameters(made: Any, region: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield last part of the name and decrypted value of the parameters below a path."""
    store = client(made, "ssm", region)
    for page in pages(store.get_parameters_by_path, Path=path, WithDecryption=True, MaxResults=10):
        for parameter in page["Parameters"]:
            yield parameter["Name"].rpartition("/")[2], parameter["Value"]


@contextmanager
def explained(region: str, endpoint_url: str | None = None) -> Iterator[None]:
    """Turn what botocore raises into an AwsError: thing and remedy in one line."""
    try:
        yield
    except (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        botocore.parsers.ResponseParserError,
    ) as error:
        raise AwsError(_explanation(error, region, endpoint_url)) from error


def _explanation(error: Exception, region: str, endpoint_url: str | None) -> str:
    elsewhere = endpoint_url and "amazonaws.com" not in endpoint_url
    where = f"region {region} at {endpoint_url}" if elsewhere else f"region {region}"
    if isinstance(error, botocore.exceptions.ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        said = f"{where}: {error.operation_name}: {error.response['Error'].get('Message') or code}"
        said = " ".join(said.split()).rstrip(".")
        if code in REFUSED:
            return f"{said} ({code}): renew the credentials, or name others by option profile"
        if code in DENIED:
            return f"{said} ({code}): allow the call in the policy of these credentials"
        if code in THROTTLED:
            return f"{said} ({code}): AWS throttles this account; run again in a minute"
        if code == "OptInRequired":
            return f"{said} ({code}): enable the region for the account, or leave it out"
        return f"{said} ({code})"
    said = " ".join(str(error).split()).rstrip(".")
    match error:
        case (
            botocore.exceptions.NoCredentialsError()
            | botocore.exceptions.PartialCredentialsError()
            | botocore.exceptions.CredentialRetrievalError()
        ):
            return f"{where}: {said}: set AWS_PROFILE or option profile, or run `aws configure`"
        case botocore.exceptions.NoRegionError():
            return "no region: set option regions or AWS_REGION"
        case botocore.exceptions.ProfileNotFound():
            return f"{said}: correct option profile or AWS_PROFILE"
        case botocore.exceptions.InvalidRegionError():
            return f"{said}: correct option regions"
        case botocore.exceptions.HTTPClientError() | botocore.exceptions.ConnectionError():
            if elsewhere:
                return f"{where}: {said}: is the local cloud up (./fleet up)?"
            if region not in botocore.session.Session().get_available_regions("ec2"):
                return f"region {region}: botocore knows no such region: correct option regions"
            return f"{where}: {said}: check the network and the proxy settings"
        case botocore.parsers.ResponseParserError():
            return f"{where}: the answer is not AWS's ({said}): is endpoint_url right?"
    return f"{where}: {said}"
