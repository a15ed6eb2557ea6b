"""A served host where a supervisor runs the service, as its tests see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from served import Service

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
START = "/opt/bringup/bin/bringup-start"
SUPERVISORCTL = "/opt/bringup/tools/supervisor/bin/supervisorctl -c /etc/bringup/supervisord.conf"


@dataclass(frozen=True)
class Rented(Service):
    """The service where a supervisor runs it."""

    log_tail: ClassVar[str] = "tail -n 40 /var/log/bringup/*.log"

    def status(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.ssh("/opt/bringup/bin/bringup-host status").splitlines())

    def state(self) -> str:
        return self.status()["ActiveState"]

    def server_pid(self) -> str:
        return self.status()["MainPID"]

    def stop(self) -> None:
        self.ssh(f"{SUPERVISORCTL} stop vllm")

    @contextmanager
    def impatient_watch(self) -> Iterator[None]:
        conf = "/etc/bringup/supervisord.conf"
        self.ssh(f"cp {conf} /root/kept.conf; sed -i 's/bringup-host watch$/& --interval-s 0.5 --failures 2/' {conf}")
        self.ssh(f"{SUPERVISORCTL} update")
        try:
            yield
        finally:
            self.ssh(f"cp /root/kept.conf {conf}; {SUPERVISORCTL} update")
