"""What the serving card is set to outside vLLM: persistence, and what the inventory asks for of power and clocks."""

from bringup.hardware import Frozen, Gpu, HostFacts
from bringup.plan.decision import Decision
from bringup.settings import Settings


class CardPlan(Frozen):
    """What bringup-nvidia.service does at each boot, before the server starts."""

    address: str
    power_limit_w: int | None = None
    clocks_mhz: tuple[int, int] | None = None
    """Lowest and highest."""
    blockers: tuple[str, ...] = ()
    """What the inventory asks for and the card or the host does not allow."""


def plan_card(facts: HostFacts, settings: Settings, gpu: Gpu) -> CardPlan | None:
    """Plan the settings of the serving card; None where they are not this host's to set and nothing is asked for.

    Persistence is always planned: a card that no program uses loses its settings, and its first user waits for it.
    """
    if settings.nvidia_state == "absent":
        return None
    plan = CardPlan(address=gpu.pci_address, power_limit_w=settings.gpu_power_limit_w, clocks_mhz=settings.gpu_clocks_mhz)
    asked = {"gpu_power_limit_w": plan.power_limit_w, "gpu_clocks_mhz": plan.clocks_mhz}
    names = [name for name, value in asked.items() if value is not None]
    if facts.system.container is not None:
        if not names:
            return None
        text = f"{' and '.join(names)}: this is a container ({facts.system.container}), whose cards are its machine's"
        return plan.model_copy(update={"blockers": (f"{text}: have them set there, and take the setting out here",)})
    return plan.model_copy(update={"blockers": tuple(_out_of_range(plan, gpu))})


def _out_of_range(plan: CardPlan, gpu: Gpu) -> list[str]:
    """Compare with what the driver says that the card takes; without a driver nvidia-smi is the judge, once there is one."""
    if gpu.state is None:
        return []
    blockers = []
    least, most = gpu.state.power.min_limit_w, gpu.state.power.max_limit_w
    limit = plan.power_limit_w
    if limit is not None and least is not None and most is not None and not least <= limit <= most:
        blockers.append(f"gpu_power_limit_w is {limit}, but the card takes {least:.0f} to {most:.0f} W")
    highest = gpu.state.clocks.max_graphics_mhz
    if plan.clocks_mhz is not None and highest is not None and plan.clocks_mhz[1] > highest:
        blockers.append(f"gpu_clocks_mhz goes up to {plan.clocks_mhz[1]}, but the card's highest clock is {highest} MHz")
    return blockers


def card_decisions(plan: CardPlan | None) -> tuple[Decision, ...]:
    """What the inventory set, as the plan shows it."""
    if plan is None:
        return ()
    decisions = []
    if plan.power_limit_w is not None:
        decisions.append(
            Decision(key="gpu-power-limit-w", value=plan.power_limit_w, why="as set", source="inventory: gpu_power_limit_w")
        )
    if plan.clocks_mhz is not None:
        decisions.append(
            Decision(key="gpu-clocks-mhz", value=list(plan.clocks_mhz), why="as set", source="inventory: gpu_clocks_mhz")
        )
    return tuple(decisions)
