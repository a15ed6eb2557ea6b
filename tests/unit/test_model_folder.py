"""A model's folder on the control machine: what names it, and how it comes to a host."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.model_folder import read_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a hub's cache has it: the weights are a link out of the folder, and the client keeps notes of its own."""
    folder = tmp_path / "snapshots/0123"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub dir/tokenizer.json").write_text("[]")
    blob = tmp_path / "blobs/weights"
    blob.parent.mkdir()
    blob.write_bytes(b"weights" * 1000)
    (folder / "model.safetensors").symlink_to(blob)
    notes = folder / ".cache/huggingface/download/config.json.metadata"
    notes.parent.mkdir(parents=True)
    notes.write_text("downloaded at 12:00")
    return folder


def test_fingerprint_names_exactly_the_models_files(folder: Path) -> None:
    before = read_folder(str(folder)).fingerprint
    assert read_folder(str(folder)).fingerprint == before
    (folder / ".cache/huggingface/download/config.json.metadata").write_text("downloaded at 13:00")
    (folder / ".bringup-complete").write_text("x")
    assert read_folder(str(folder)).fingerprint == before, "what is hidden is not part of the model"
    (folder / "config.json").write_text("[]")
    content = read_folder(str(folder)).fingerprint
    (folder / "config.json").rename(folder / "config.json.old")
    (folder / "config.json").write_text("[]")
    assert len({before, content, read_folder(str(folder)).fingerprint}) == 3


def test_checksums_are_as_sha256sum_reads_them(folder: Path) -> None:
    checksums = read_folder(str(folder)).checksums()
    command = ["sha256sum", "--check", "--strict", "-"]
    done = subprocess.run(command, cwd=folder, input=checksums, capture_output=True, text=True)
    assert done.stdout.count(": OK") == 3
    (folder / "sub dir/tokenizer.json").write_text("damaged")
    done = subprocess.run(command, cwd=folder, input=checksums, capture_output=True, text=True)
    assert "sub dir/tokenizer.json: FAILED" in done.stdout


def test_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match=r"has no config\.json"):
        read_folder(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BringupError, match="holds no weights"):
        read_folder(str(tmp_path))


def test_copy_is_whole_verified_and_marked(tmp_path: Path, folder: Path) -> None:
    target = tmp_path / "host/model"
    target.mkdir(parents=True)
    for name in ("of-another-model.safetensors", ".model.safetensors.Xa81Bc", ".bringup-complete"):
        (target / name).touch()
    manifest = read_folder(str(folder))
    deploy = tmp_path / "copy_model.py"
    deploy.write_text(
        "from deploys.operations import model_folder\n"
        f"model_folder(name='Copy', src={str(folder)!r}, dest={str(target)!r}, checksums={manifest.checksums()!r})\n"
    )
    pyinfra = Path(sys.executable).parent / "pyinfra"
    done = subprocess.run(
        [str(pyinfra), "-y", "@local", str(deploy)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_folder(str(target)) == manifest
    assert not (target / "model.safetensors").is_symlink()
    assert (target / ".bringup-complete").read_text().strip() == manifest.fingerprint
    assert {file.name for file in target.glob(".*")} == {".bringup-complete", ".bringup-sha256"}
