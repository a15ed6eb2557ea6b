"""The NVIDIA driver alone, with CUDA's compiler where the plan has it, without engine, model and service.

    pyinfra inventories/prod.py deploys/driver.py --dry --diff                  # what would be installed, and why
    pyinfra -y inventories/prod.py deploys/driver.py                            # do it
    pyinfra -y inventories/prod.py deploys/driver.py --data nvidia_state=absent # take away what bringup installed

deploys/qwen.py does the same on its way; both leave a working driver that is new enough alone.
"""

from pyinfra import host, inventory

from deploys.context import prepare
from deploys.steps.card import card
from deploys.steps.cuda import cuda, remove_cuda
from deploys.steps.driver import driver
from deploys.steps.gpu_check import driver_check
from deploys.steps.preflight import preflight

context = prepare(host, inventory, only="driver")
rights = context.rights

preflight(context, **rights)

if context.plan is not None:
    with context.as_far_as_possible():
        if context.plan.card is None:
            # while the driver is still there to undo its settings
            card(context, **rights)
        if context.settings.nvidia_state == "absent":
            remove_cuda(context, **rights)
        changed = driver(context, **rights)
        cuda(context, **rights)
        if context.plan.card is not None:
            card(context, **rights)
            if changed:
                driver_check(context, **rights)
