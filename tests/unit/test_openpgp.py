"""Fingerprints of keys as gpg makes them, and what is no key."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bringup.openpgp import dearmored, fingerprints

needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg, whose keys are read, is not installed")


def gpg(home: Path, *arguments: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyring with two keys; the first has a subkey."""
    home = tmp_path_factory.mktemp("gpg")
    gpg(home, "--quick-generate-key", "one@example.org", "ed25519", "sign", "never")
    gpg(home, "--quick-add-key", primary(home, "one@example.org"), "cv25519", "encr", "never")
    gpg(home, "--quick-generate-key", "two@example.org", "rsa2048", "sign", "never")
    return home


def primary(home: Path, name: str) -> str:
    lines = gpg(home, "--with-colons", "--list-keys", name).decode().splitlines()
    return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))


@needs_gpg
@pytest.mark.parametrize("armour", [True, False], ids=["armoured", "binary"])
@pytest.mark.parametrize("name", ["one@example.org", "two@example.org"])
def test_fingerprint_is_what_gpg_says(home: Path, name: str, armour: bool) -> None:
    key = gpg(home, *(["--armor"] if armour else []), "--export", name)
    assert fingerprints(dearmored(key)) == (primary(home, name),)


@needs_gpg
@pytest.mark.parametrize("armour", [True, False], ids=["armoured", "binary"])
def test_every_key_of_a_file_is_seen(home: Path, armour: bool) -> None:
    names = ("one@example.org", "two@example.org")
    files = [gpg(home, *(["--armor"] if armour else []), "--export", name) for name in names]
    assert fingerprints(dearmored(b"\n".join(files) if armour else b"".join(files))) == tuple(primary(home, name) for name in names)


@needs_gpg
def test_key_that_was_cut_off_is_refused(home: Path) -> None:
    with pytest.raises(ValueError, match="ends in the middle"):
        fingerprints(gpg(home, "--export", "two@example.org")[:100])


@pytest.mark.parametrize(
    "data",
    [
        b"<html>Not found</html>",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP PUBLIC KEY BLOCK-----",
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
    ],
    ids=["page", "damaged", "another-block"],
)
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no OpenPGP key|damaged|no public key"):
        fingerprints(dearmored(data))
