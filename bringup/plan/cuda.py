"""Whether a host gets CUDA's compiler, and which parts of the toolkit.

vLLM's wheels bring what they need at run time. A compiler is needed only where kernels are made on the host.
"""

import re
from collections.abc import Mapping
from typing import Any

from bringup.catalog.entries import Engine
from bringup.hardware import Frozen
from bringup.plan.decision import Decision
from bringup.settings import NvidiaRepository, Settings

_PARTS = ("cuda-nvcc", "cuda-cudart", "cuda-nvrtc", "cuda-cuobjdump", "libcurand-dev", "libcublas-dev")
"""What vLLM's own image installs for kernels that are compiled at run time (vllm-project/vllm v0.29.0, docker/Dockerfile)."""


class CudaPlan(Frozen):
    """The toolkit beside the engine."""

    version: str
    """Of the engine's CUDA: ``13.0``."""
    packages: tuple[str, ...]
    repository: NvidiaRepository | None = None
    """Where they come from; None: the host's own package sources."""
    why: str

    @property
    def home(self) -> str:
        """Folder of this version, which stays beside others."""
        return f"/usr/local/cuda-{self.version}"


def plan_cuda(settings: Settings, engine: Engine, vllm: Mapping[str, Any]) -> CudaPlan | None:
    """Plan the toolkit; None where nothing that is served needs a compiler.

    Args:
        settings: what the inventory says.
        engine: the build of vLLM; its CUDA is the toolkit's.
        vllm: the options that vLLM is started with.
    """
    version = re.fullmatch(r"cu([0-9]+)([0-9])", engine.torch_backend)
    if version is None or settings.cuda_toolkit == "never" or settings.nvidia_state == "absent":
        return None
    if settings.cuda_toolkit == "always":
        why = "cuda_toolkit is always"
    elif vllm.get("attention-backend") == "FLASHINFER":
        why = "attention-backend is FLASHINFER, which compiles its kernels on the host"
    else:
        return None
    return CudaPlan(
        version=f"{version[1]}.{version[2]}",
        packages=tuple(f"{part}-{version[1]}-{version[2]}" for part in _PARTS),
        repository=settings.nvidia_repository,
        why=why,
    )


def cuda_environment(plan: CudaPlan | None, path: str) -> dict[str, str]:
    """Variables by which the service finds the compiler.

    Args:
        plan: the toolkit.
        path: the service's PATH without it.
    """
    return {} if plan is None else {"CUDA_HOME": plan.home, "PATH": f"{path}:{plan.home}/bin"}


def cuda_decisions(plan: CudaPlan | None) -> tuple[Decision, ...]:
    """What the plan shows of it."""
    if plan is None:
        return ()
    return (Decision(key="cuda-toolkit", value=plan.version, why=plan.why, source="the engine's CUDA (catalog: torch_backend)"),)
