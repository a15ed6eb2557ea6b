"""The serving card outside vLLM: device nodes, persistence, power limit and clocks, by a unit that does it at each boot."""

import shlex
from io import StringIO

from pyinfra.api import deploy
from pyinfra.operations import files

from deploys.compare import differs
from deploys.context import Context
from deploys.operations import streamed_shell
from deploys.render import render

NAME = "bringup-nvidia.service"
UNIT = f"/etc/systemd/system/{NAME}"
_APPLY = (
    f"systemctl daemon-reload && systemctl enable --quiet {NAME} && systemctl restart {NAME} || "
    f"{{ echo 'error: the card does not take its settings:'; journalctl -u {NAME} -n 15 -o cat --no-pager; exit 1; }}"
)
_UNDO = (
    f"systemctl disable --now --quiet {NAME}; rm -f {UNIT}; systemctl daemon-reload; "
    f"systemctl reset-failed {NAME} 2>/dev/null || true"
)


@deploy("Card")
def card(context: Context) -> None:
    """Apply the card's settings where they are not in force; take the unit away where the plan has none."""
    plan, facts = context.plan.card, context.facts
    if plan is None:
        if facts.nvidia.card_unit is not None:
            streamed_shell(name="Undo the card's settings", command=f"sh -c {shlex.quote(_UNDO)}")
        return
    content = render("bringup-nvidia.service.j2", context.plan)
    another = differs(UNIT, content)
    reasons = _reasons(context, another)
    if another and facts.nvidia.card_unit is not None:
        # by the unit as it was: what it set and the new one does not would stay otherwise
        streamed_shell(name="Undo the card's earlier settings", command=f"systemctl stop {NAME}")
    files.put(name=f"Write {UNIT}", src=StringIO(content), dest=UNIT, mode="644", create_remote_dir=False)
    if reasons:
        streamed_shell(name=f"Apply the card's settings ({'; '.join(reasons)})", command=f"sh -c {shlex.quote(_APPLY)}")


def _reasons(context: Context, another: bool) -> list[str]:
    """Why the card is not as the plan has it, as far as the probe saw; empty when it is."""
    plan, facts = context.plan.card, context.facts
    if another:
        return ["new" if facts.nvidia.card_unit is None else f"{UNIT} differs"]
    reasons = [] if facts.nvidia.card_unit == "active" else [f"{NAME} is {facts.nvidia.card_unit or 'not loaded'}"]
    state = next((gpu.state for gpu in facts.gpus if gpu.pci_address == plan.address), None)
    if state is not None:
        if state.persistence_mode is False:
            reasons.append("persistence is off")
        limit = state.power.limit_w
        if plan.power_limit_w is not None and limit is not None and round(limit) != plan.power_limit_w:
            reasons.append(f"the power limit is {limit:.0f} W")
    return reasons
