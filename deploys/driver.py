"""The NVIDIA driver alone, without engine, model and service.

    pyinfra inventories/prod.py deploys/driver.py --dry --diff                  # what would be installed, and why
    pyinfra -y inventories/prod.py deploys/driver.py                            # do it
    pyinfra -y inventories/prod.py deploys/driver.py --data nvidia_state=absent # take away what bringup installed

deploys/qwen.py does the same on its way; both leave a working driver that is new enough alone.
"""

from pyinfra import host, inventory

from deploys.context import prepare
from deploys.steps.driver import driver
from deploys.steps.preflight import preflight

context = prepare(host, inventory, driver_only=True)
rights = context.rights

preflight(context, **rights)

if context.plan is not None:
    with context.as_far_as_possible():
        driver(context, **rights)
