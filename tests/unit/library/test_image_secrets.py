"""What image_secrets finds in a file tree, and what it lets pass."""

from pathlib import Path

import pytest
from image_secrets import findings

SECRET = {"vault_redis_cache_password": b"n3Vt0Kq8sYw1LzXc"}
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAE\n" * 3


def plant(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def found(root: Path) -> list[str]:
    return [kind for _, kind in findings(root, SECRET)[0]]


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", "identity of one machine"),
        ("etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA", "host key"),
        ("etc/superset/facts.json", "{}", "the fleet's secrets"),
        ("etc/fleet/aws.ini", "[default]\n", "credentials of one machine"),
        ("home/admin/.bash_history", "ls\n", "history"),
        ("home/admin/.ssh/authorized_keys", "ssh-ed25519 AAAA", "key that may log in"),
        ("root/.aws/credentials", "[default]\n", "credentials of AWS"),
        ("root/.pgpass", "*:*:*:*:x", "passwords of PostgreSQL"),
        ("srv/notes", KEY, "private key"),
        ("etc/app.ini", "key = AKIAIOSFODNN7EXAMPLE\n", "access key of AWS"),
        ("etc/app.json", f'{{"aws_session_token": "{"x" * 40}"}}', "credentials of AWS"),
        ("opt/app/.env", f"TOKEN=ghp_{'a' * 36}\n", "token of GitHub"),
        ("etc/shadow", "root:$y$j9T$abc$def:19000:0:99999:7:::\n", "password of a user"),
    ],
)
def test_what_must_not_be_in_an_image_is_found(
    tmp_path: Path, path: str, text: str, kind: str
) -> None:
    planted = plant(tmp_path, path, text)
    assert findings(tmp_path, SECRET)[0] == [(str(planted), kind)]


@pytest.mark.parametrize(
    "path", ["var/log/app.log", "usr/lib/app/conf", "opt/venv/lib/site-packages/app/a.py"]
)
def test_a_secret_of_the_fleet_is_found_everywhere(tmp_path: Path, path: str) -> None:
    plant(tmp_path, path, f"\0\0password={SECRET['vault_redis_cache_password'].decode()}\0")
    assert found(tmp_path) == ["value of vault_redis_cache_password"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/machine-id", ""),
        ("etc/machine-id", "uninitialized\n"),
        ("etc/shadow", "root:*:19000:0:99999:7:::\n"),
        ("etc/ssh/sshd_config", "HostKey /etc/ssh/ssh_host_ed25519_key\n"),
        ("opt/app/pem.py", 'HEADER = "-----BEGIN RSA PRIVATE KEY-----"\nFOOTER = "-----END"\n'),
        ("opt/venv/lib/python3.11/site-packages/app/tests/key.pem", KEY),
        ("root/.ssh/authorized_keys", ""),
    ],
)
def test_what_is_no_secret_passes(tmp_path: Path, path: str, text: str) -> None:
    plant(tmp_path, path, text)
    assert found(tmp_path) == []


def test_links_lead_nowhere(tmp_path: Path) -> None:
    plant(tmp_path, "outside/notes", KEY)
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "notes").symlink_to(tmp_path / "outside" / "notes")
    assert found(tmp_path / "image") == []
