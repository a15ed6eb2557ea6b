"""Loads the catalog from the package's own YAML files."""

import difflib
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import yaml

from bringup.catalog.calibration import Calibration
from bringup.catalog.entries import Engine, GpuModel, Model, Profile
from bringup.errors import BringupError
from bringup.hardware import Frozen


def nearest(name: str, known: Iterable[str]) -> str:
    """Return words for an error message: the known names that are nearest to `name`, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


UNCALIBRATED_MARGIN = 0.05
"""Part of the KV cache that is not counted on where a card and version were not measured. Judgement: over shapes and batches the
formula was off by 0.2 % at most on the card that it was found on, another card's kernels may take other workspaces."""


class Catalog(Frozen):
    """All entries."""

    gpus: tuple[GpuModel, ...]
    models: tuple[Model, ...]
    engines: tuple[Engine, ...]
    profiles: dict[str, Profile]
    calibrations: tuple[Calibration, ...]

    def model(self, name: str) -> Model:
        """Find a model by repository id or alias.

        Raises:
            BringupError: there is none; the message names the nearest.
        """
        for model in self.models:
            if name == model.id or name in model.aliases:
                return model
        raise BringupError(f"unknown model '{name}': {nearest(name, [model.id for model in self.models])}")

    def model_names(self) -> set[str]:
        """Every name by which a model is found."""
        return {name for model in self.models for name in (model.id, *model.aliases)}

    def with_model(self, model: Model) -> "Catalog":
        """The same catalog with one more model, found before all others."""
        return self.model_copy(update={"models": (model, *self.models)})

    def profile(self, name: str) -> Profile:
        """Find a profile by name.

        Raises:
            BringupError: there is none; the message names the nearest.
        """
        if name not in self.profiles:
            raise BringupError(f"unknown profile '{name}': {nearest(name, self.profiles)}")
        return self.profiles[name]

    def engines_named(self, name: str) -> tuple[Engine, ...]:
        """Find the builds that a name stands for: an entry's own name, or a version as ``vllm==0.33.0`` or ``0.33.0``."""
        version = name.removeprefix("vllm==")
        return tuple(engine for engine in self.engines if name == engine.name or version == engine.version)

    def engine(self, name: str | None, device: str) -> Engine:
        """Find an engine by name or version, or the first (newest) one for a device that can be installed.

        Raises:
            BringupError: there is none of that name, or it is for another device.
        """
        if name is None:
            return next(engine for engine in self.engines if engine.device == device and engine.installable)
        found = self.engines_named(name)
        for engine in found:
            if engine.device == device:
                return engine
        if found:
            raise BringupError(f"engine '{name}' is for {found[0].device}, but this host would serve on {device}")
        raise BringupError(f"unknown engine '{name}': {nearest(name, [engine.name for engine in self.engines])}")

    def calibration(self, engine_version: str, compute_capability: str) -> Calibration:
        """Constants of a version of vLLM on a card; where the pair was not measured, the nearest that were, marked so.

        Raises:
            BringupError: the catalog knows nothing of that version.
        """
        of_version = [entry for entry in self.calibrations if entry.engine_version == engine_version]
        for entry in of_version:
            if entry.compute_capability == compute_capability:
                return entry
        for entry in sorted(of_version, key=lambda entry: entry.compute_capability is not None):
            return entry.model_copy(update={"calibrated": False, "margin": max(entry.margin, UNCALIBRATED_MARGIN)})
        raise BringupError(f"catalog/calibrations.yaml has no entry for vLLM {engine_version}")

    def gpus_named(self, name: str) -> tuple[GpuModel, ...]:
        """Find cards by the name that they are sold under, "NVIDIA" and "GeForce" left out or not.

        Raises:
            BringupError: there is none; the message names the nearest.
        """
        wanted = _plain_gpu_name(name)
        found = tuple(gpu for gpu in self.gpus if wanted in map(_plain_gpu_name, (gpu.name, *gpu.name.split(" or "))))
        if not found:
            names = {_plain_gpu_name(gpu.name): gpu.name for gpu in self.gpus}
            close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(names[plain] for plain in close)}?" if close else "see bringup/catalog/gpus.yaml"
            raise BringupError(f"unknown card '{name}': {hint}")
        return found

    def gpu(self, pci_id: str) -> GpuModel | None:
        """Find a card by PCI id; None when the catalog does not know it."""
        return next((gpu for gpu in self.gpus if pci_id in gpu.pci_ids), None)


def _plain_gpu_name(name: str) -> str:
    words = [word for word in name.casefold().split() if word not in ("nvidia", "geforce")]
    return " ".join(words)


def _read(name: str) -> dict[str, Any]:
    text = files("bringup.catalog").joinpath(name).read_text(encoding="utf-8")
    # libyaml, where PyYAML was built with it, reads the cards five times as fast; both are safe loaders
    content: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return content


def load_catalog() -> Catalog:
    """Load and validate gpus.yaml, models.yaml, engines.yaml, profiles.yaml and calibrations.yaml."""
    parts: dict[str, Any] = {}
    for name in ("gpus", "models", "engines", "profiles", "calibrations"):
        parts |= _read(f"{name}.yaml")
    return Catalog.model_validate(parts)


def engine_checksum(engine: Engine) -> str:
    """SHA-256 of the engine's requirement list: an engine that is made of other packages gets a folder of its own."""
    return hashlib.sha256(engine_requirements(engine).encode()).hexdigest()


def tool_requirements(name: str) -> str:
    """Return the pinned list of a tool's environment on hosts: ``smoke``, ``huggingface``, ``modelscope`` or ``supervisor``."""
    return files("bringup.catalog").joinpath("engines", f"{name}-tools.txt").read_text(encoding="utf-8")


def engine_requirements(engine: Engine) -> str:
    """Return the text of the engine's requirement list: one pinned package a line.

    Of an engine that bringup does not install only its version is known.
    """
    if engine.requirements is None:
        return f"vllm=={engine.version}\n"
    return files("bringup.catalog").joinpath("engines", engine.requirements).read_text(encoding="utf-8")
