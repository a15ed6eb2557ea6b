"""The host's settings alone, without driver, engine, model and service.

    pyinfra inventories/prod.py deploys/tuning.py --dry --diff                  # what would be set, and why
    pyinfra -y inventories/prod.py deploys/tuning.py                            # do it
    pyinfra -y inventories/prod.py deploys/tuning.py --data tuning_state=absent # put back what was there before

deploys/qwen.py does the same on its way. `bringup verify inventories/prod.py` says at any time whether it still holds.
"""

from pyinfra import host, inventory

from deploys.context import prepare
from deploys.steps.preflight import preflight
from deploys.steps.runtime import tool
from deploys.steps.tuning import tuning

context = prepare(host, inventory, only="tuning")
rights = context.rights

preflight(context, **rights)

if context.plan is not None:
    with context.as_far_as_possible():
        # bringup's own tool, which makes the settings now and at each boot
        tool(context, **rights)

        tuning(context, **rights)
