"""Who keeps the server running on a host, and what only a container's owner can give it."""

from collections.abc import Iterator
from typing import Literal

from bringup.findings import Finding
from bringup.findings.finding import note, warning
from bringup.hardware import HostFacts
from bringup.onhost.launch import OOM_SCORE_ADJUST
from bringup.onhost.supervisor import START
from bringup.plan.decision import Decision
from bringup.plan.service import ServicePlan

ServiceManager = Literal["systemd", "supervisor"]
_SYS_NICE, _SYS_RESOURCE = 23, 24
"""Bits of capabilities(7)."""


def plan_service_manager(facts: HostFacts) -> tuple[ServiceManager, Decision]:
    """Choose systemd where it runs the host."""
    if facts.init == "systemd":
        why = "it runs this host (process 1)"
        return "systemd", Decision(key="service-manager", value="systemd", why=why, source="facts: process 1")
    why = f"process 1 is {facts.init} and not systemd: Supervisor runs the server, from an environment of its own"
    return "supervisor", Decision(key="service-manager", value="supervisor", why=why, source="facts: process 1")


def container_findings(facts: HostFacts, service: ServicePlan) -> tuple[Finding, ...]:
    """List what the owner of a container without systemd can do for the server, with the exact words."""
    return () if facts.init == "systemd" else tuple(_findings(facts, service))


def _findings(facts: HostFacts, service: ServicePlan) -> Iterator[Finding]:
    yield warning(
        "start-command",
        f"nothing but its start command starts the server again when this container is started anew: add the line {START} to that "
        "(vast.ai: On-start Script of the instance or template; RunPod's own images: /post_start.sh; an image of your own: "
        "before its last command, such as sshd -D)",
        "bringup edits no start command: it is the image's, and what is wrong in it locks everybody out",
    )
    yield note(
        "container-restart",
        "the container itself is its engine's to start again: docker run --restart unless-stopped --init; before docker stop, "
        "/opt/bringup/tools/supervisor/bin/supervisorctl -c /etc/bringup/supervisord.conf stop vllm lets running answers end",
    )
    has = facts.confines
    nofile = service.limits.get("LimitNOFILE", "0")
    if has.open_files is not None and has.open_files < int(nofile) and not has.may(_SYS_RESOURCE):
        text = f"this container's processes may open {has.open_files} files each, and {nofile} are planned"
        yield warning("container-open-files", f"{text}: docker run --ulimit nofile={nofile}:{nofile}", "a connection is a file")
    if not has.may(_SYS_RESOURCE):
        text = f"the server cannot be spared when memory runs out: docker run --oom-score-adj {OOM_SCORE_ADJUST}"
        yield note("container-oom-score", text, "of all processes the largest one is ended first, which is the server's")
    if service.memory_nodes and not has.may(_SYS_NICE):
        nodes = service.memory_nodes
        text = f"memory cannot be bound to node {nodes} from inside: docker run --cpuset-mems={nodes}, or --cap-add SYS_NICE"
        yield warning("container-memory-nodes", text, "Docker's default filter refuses set_mempolicy without that capability")
