"""The throw-away hosts of this machine, as `bringup lab up` made them."""

from pyinfra.api.exceptions import InventoryError

from bringup.errors import BringupError
from bringup.lab.state import lab_dir, read_state

try:
    _state = read_state(lab_dir())
except BringupError as error:
    raise InventoryError(error.message) from None
if not _state.hosts:
    raise InventoryError("no throw-away host is up: start one with `bringup lab up`")

lab = [
    (
        host.name,
        {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": host.ssh_port,
            "ssh_user": "root",
            "ssh_key": str(_state.key),
            "ssh_known_hosts_file": str(_state.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            # the hosts share this machine's network, so each serves on a port of its own
            "port": host.service_port,
        },
    )
    for host in _state.hosts
]
