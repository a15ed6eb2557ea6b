"""Many restarts in a row: `make test-soak`, an hour on a busy machine with the real vLLM, and not part of `make test`."""

import json
import os

import pytest
from deployment import Deployment

pytestmark = pytest.mark.lab
RESTARTS = int(os.environ.get("BRINGUP_SOAK_RESTARTS", "50"))
_LEFT = (
    "systemctl stop vllm.service; systemctl reset-failed vllm.service; "
    "pgrep -u vllm | wc -l; ls /dev/shm | wc -l; ss -Hltn 'sport = :{port}' | wc -l; "
    "ls -d /tmp/*vllm* /var/tmp/*vllm* 2>/dev/null | wc -l"
)


def test_restarts_leave_no_process_port_or_memory_behind(deployment: Deployment) -> None:
    if deployment.ssh("systemctl is-active vllm.service", check=False).strip() != "active":
        deployment.deploy()
    port = deployment.host().service_port
    model = deployment.served_models()[0]
    left = []
    for restart in range(RESTARTS):
        # every third one dies instead of being stopped
        if restart % 3 == 2:
            deployment.ssh("kill -9 $(systemctl show vllm.service -P MainPID)")
        left.append(deployment.ssh(_LEFT.format(port=port)).split())
        deployment.ssh("systemctl start vllm.service")
        assert deployment.served_models() == [model]
        print(json.dumps({"restart": restart + 1, "left": left[-1]}), flush=True)
    assert left == [["0"] * 4] * RESTARTS
