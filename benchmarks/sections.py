"""The probe's sections one by one, each a fact of its own: what bringup does not do, and is measured against."""

import re

from pyinfra.api import FactBase

from bringup.probe.sections import probe_script

# sections that use what another has found out
_NEEDS = {"cgroup": "init", "nvidia-smi-xml": "nvidia-smi"}


def section_scripts() -> dict[str, str]:
    """Cut the probe into one script a section, each able to run alone."""
    preamble, *parts = re.split(r"^(?=section )", probe_script(), flags=re.MULTILINE)
    part_of = {part.split()[1].rstrip(";"): part for part in parts}
    del part_of["end"]  # asks nothing

    def script(name: str) -> str:
        needed = part_of.get(_NEEDS.get(name, ""))
        before = f"{{ {needed}\n}} >/dev/null\n" if needed else ""
        # a section may end in a command that fails, which would fail its fact; the probe goes on, and so ends well
        return f"{preamble}{before}{part_of[name]}\n:"

    return {name: script(name) for name in part_of}


class ProbeSection(FactBase[str]):
    """One section, as the probe prints it."""

    def command(self, section: str) -> str:
        """The part of the probe that prints it."""
        return section_scripts()[section]

    def process(self, output: list[str]) -> str:
        """As it is."""
        return "\n".join(output)
