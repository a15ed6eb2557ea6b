"""How the server of a release is run, as vllm.toml says it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from bringup.errors import BringupError

OOM_SCORE_ADJUST = -500
"""As in templates/vllm.service.j2."""


@dataclass(frozen=True)
class Launch:
    """Everything that a unit would say."""

    command: tuple[str, ...]
    plan: str
    """plan.json of the release."""
    environment_files: tuple[str, ...]
    groups: tuple[str, ...]
    """Of its user, beside the own one."""
    cpus: str
    memory_nodes: str
    start_timeout_s: float
    stop_timeout_s: float
    restart_delay_s: float
    restart_steps: int
    restart_max_delay_s: float
    starts: int
    starts_within_s: float
    limits: dict[str, str]
    """systemd's names for them."""

    def delay_s(self, starts: int) -> float:
        """How long to wait before the next start, after so many in a row; as systemd's RestartSteps= counts."""
        if starts == 0:
            return 0
        steps = min(starts - 1, self.restart_steps)
        return float(self.restart_delay_s * (self.restart_max_delay_s / self.restart_delay_s) ** (steps / self.restart_steps))


def read_launch(file: Path) -> Launch:
    """Read a release's vllm.toml.

    Raises:
        BringupError: it cannot be read.
    """
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
        lists = {name: tuple(said[name]) for name in ("command", "environment_files", "groups")}
        return Launch(**said | lists)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BringupError(f"{file} cannot be used: {error}") from error
