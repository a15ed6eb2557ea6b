"""What runs on the host: reading vLLM's log, and building environments (without any network)."""

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bringup.errors import BringupError
from bringup.onhost import build as builder
from bringup.onhost.build import MARKER, build
from bringup.onhost.log import first_error, last_words, without_tracebacks

LOG = (Path(__file__).parent / "recordings/vllm-0.32.0-missing-weights.log").read_text(encoding="utf-8")
CAUSE = "ValueError: Following weights were not initialized from checkpoint: "


def test_cause_is_the_exception_that_came_first() -> None:
    assert first_error(LOG).startswith(CAUSE + "{'model.layers.30.")


def test_exceptions_that_only_point_to_the_cause_are_not_it() -> None:
    pointers = "".join(line for line in LOG.splitlines(keepends=True) if CAUSE not in line)
    assert "RuntimeError: Engine core initialization failed. See root cause above." in pointers
    assert first_error(pointers) == ""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("INFO 11-24 21:02:47 [x.py:1] all is well", "", id="no-error"),
        pytest.param(
            "WARNING [x.py:1] errors like `OSError: [Errno 24] Too many open files`", "", id="error-that-is-only-talked-of"
        ),
        pytest.param("torch.OutOfMemoryError: CUDA out of memory.", "torch.OutOfMemoryError: CUDA out of memory.", id="dotted"),
        pytest.param("(EngineCore pid=7) ERROR 11-24 [core.py:1] KeyError: 'x'", "KeyError: 'x'", id="vllms-prefix"),
        pytest.param("OSError: first\nValueError: second", "OSError: first", id="first-of-two"),
    ],
)
def test_cause_in_other_logs(log: str, cause: str) -> None:
    assert first_error(log) == cause


def test_log_without_tracebacks_keeps_what_people_can_read() -> None:
    shown = without_tracebacks(LOG).splitlines()
    assert any(CAUSE in line for line in shown)
    assert "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}" in shown
    assert any("WorkerProc failed to start." in line for line in shown)
    assert not [line for line in shown if "site-packages" in line or "^^^" in line or not line.strip()]
    assert shown[-1] == "vllm.service: Failed with result 'exit-code'."


def test_last_words_skip_blank_lines() -> None:
    assert last_words("one\n\ntwo\n  \nthree\n\n", 2) == "two\nthree"


# --- building an environment


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A find-links folder with one package that pip itself did not make."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny_part-1.0.dist-info"
    contents = {
        "tiny_part.py": "WORD = 'here'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-part\nVersion: 1.0\nRequires-Dist: not-wanted\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "tiny_part-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**contents, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)
    return folder


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose pip knows no index but an empty folder, so that uv cannot be had; returns that folder."""
    empty = tmp_path / "index"
    empty.mkdir()
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_NO_INDEX", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(builder, "UV_DIR", tmp_path / "tools/uv")
    monkeypatch.setattr(builder, "UV_CACHE_DIR", tmp_path / "tools/uv-cache")
    monkeypatch.setattr("bringup.onhost.lock.LOCK", tmp_path / "lock")
    return empty


def request(folder: Path, requirement: str, index: Path, wheels: Path, **changes: Any) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"# pinned\n{requirement}\n")
    file = folder / "build.json"
    content: dict[str, Any] = {
        "target": str(folder / "engines/tiny"),
        "requirements": str(requirements),
        "checksum": "abc",
        "index_url": index.as_uri(),
        "extra_index_urls": [],
        "find_links": [str(wheels)],
        "torch_backend": "cpu",
        "torch_backend_is_set": False,
    }
    file.write_text(json.dumps(content | changes))
    return file


def test_build_falls_back_to_pip_and_the_second_call_does_nothing(
    tmp_path: Path, wheels: Path, no_network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = request(tmp_path, "tiny-part==1.0", no_network, wheels)
    target = tmp_path / "engines/tiny"
    build(file)
    said = capsys.readouterr().out
    assert "going on with pip" in said
    assert "installing 1 packages" in said
    assert (target / MARKER).read_text().strip() == "abc"
    code = "import tiny_part; print(tiny_part.WORD)"
    assert subprocess.run([str(target / "bin/python"), "-c", code], capture_output=True, text=True).stdout == "here\n"
    assert not (tmp_path / "tools/uv").exists()  # nothing is left of uv that could be taken for one that works

    untouched = (target / "bin/python").lstat().st_ctime_ns
    build(file)
    assert capsys.readouterr().out == f"{target} is built already\n"
    assert (target / "bin/python").lstat().st_ctime_ns == untouched


def test_build_that_fails_leaves_nothing_and_names_what_is_missing(tmp_path: Path, wheels: Path, no_network: Path) -> None:
    target = tmp_path / "engines/tiny"
    target.mkdir(parents=True)
    (target / "half-built").touch()  # an earlier run was killed
    (target / MARKER).write_text("of another list\n")
    with pytest.raises(BringupError) as caught:
        build(request(tmp_path, "no-such-part==9.9", no_network, wheels))
    assert "tiny cannot be installed" in caught.value.message
    assert "no-such-part==9.9" in caught.value.message
    assert not target.exists()
