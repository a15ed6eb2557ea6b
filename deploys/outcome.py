"""Two things that pyinfra 3.10 leaves out of a run: an error for an empty inventory, and the failed hosts' names at the end."""

import atexit
from typing import Any

from pyinfra import logger
from pyinfra.api import Host, State
from pyinfra.api.exceptions import InventoryError
from pyinfra.api.state import BaseStateCallback


class _Failures(BaseStateCallback):
    """Remembers where each host failed."""

    def __init__(self) -> None:
        self.where: dict[str, str] = {}

    def host_connect_error(self, state: State, host: Host, error: Exception) -> None:  # type: ignore[override]
        self.where[host.name] = "could not be reached or looked at, see above"

    def operation_host_error(self, state: State, host: Host, op_hash: str, *_: Any) -> None:  # type: ignore[override]
        self.where[host.name] = ", ".join(state.get_op_meta(op_hash).names)

    def tell(self, state: State) -> None:
        """Name every failed host, last thing before the run ends."""
        if state.failed_hosts:
            logger.error("--> Failed hosts:")
        for name in sorted(host.name for host in state.failed_hosts):
            logger.error(f"[{name}] {self.where.get(name, 'failed while it was looked at, see above')}")


def watch(state: State) -> None:
    """Watch this run. Called by config.py, before there is an inventory.

    Raises:
        InventoryError: later, as soon as the inventory is read and has no host; pyinfra itself would succeed without doing
            anything, and run no deploy code that could tell.
    """
    # pyinfra has no hook between reading the inventory and connecting, hence the wrapped method of this run's state
    init = state.init

    def init_with_hosts(inventory: Any, *args: Any, **kwargs: Any) -> None:
        if len(inventory) == 0:
            raise InventoryError("the inventory has no hosts: name at least one, see inventories/prod.py")
        init(inventory, *args, **kwargs)
        failures = _Failures()
        state.add_callback_handler(failures)
        atexit.register(failures.tell, state)

    state.init = init_with_hosts  # type: ignore[method-assign]
