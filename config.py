"""What pyinfra reads first. Run pyinfra from this folder."""

import sys
from pathlib import Path

from pyinfra.context import ctx_state

REQUIRE_PYINFRA_VERSION = ">=3.10,<4"

# pyinfra appends the folder to sys.path, so that an installed package named `facts` or `deploys` (PyPI has such) would win
# over ours.
_ROOT = str(Path(__file__).resolve().parent)
if sys.path[0] != _ROOT:
    sys.path.insert(0, _ROOT)

from deploys.outcome import watch  # noqa: E402

watch(ctx_state.get())
