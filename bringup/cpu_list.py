"""CPUs as the kernel lists them: ``0-3,8``."""

import re

_MOST_CPUS = 8192  # CONFIG_NR_CPUS of the largest distribution kernels


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse the kernel's list format: ``0-3,8,10-11`` → (0, 1, 2, 3, 8, 10, 11).

    Raises:
        ValueError: the text is not such a list, or names more CPUs than any machine has.
    """
    cpus: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if ends is None or not int(ends[1]) <= int(ends[2] or ends[1]) < _MOST_CPUS:
            raise ValueError(f"not a list of CPUs: {text[:80]!r}")
        cpus.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: tuple[int, ...]) -> str:
    """The reverse of `parse_cpu_list`: (0, 1, 2, 3, 8) → ``0-3,8``."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
