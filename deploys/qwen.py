"""Takes each host of the inventory from bare Linux to a tuned, smoke-tested vLLM server.

    pyinfra inventories/prod.py deploys/qwen.py --dry --diff    # what would change, and why
    pyinfra -y inventories/prod.py deploys/qwen.py              # do it

What a host gets is set in group data (inventories/group_data/) or with --data: profile, model, port and so on; see
bringup/settings.py for every name. The plan decides the rest from the host's hardware and writes each reason beside its value.
"""

from pyinfra import host, inventory

from deploys.context import prepare
from deploys.steps.card import card
from deploys.steps.cuda import cuda, remove_cuda
from deploys.steps.driver import driver
from deploys.steps.gpu_check import gpu_check
from deploys.steps.model import model
from deploys.steps.preflight import preflight
from deploys.steps.runtime import runtime
from deploys.steps.service import service
from deploys.steps.smoke import smoke
from deploys.steps.toolkit import toolkit
from deploys.steps.tuning import tuning

# Settings of every host are validated first; then one probe of this host, and the plan from both.
context = prepare(host, inventory)
rights = context.rights

# A host that is not fit fails here, with the reason; the rest is still shown in a dry run.
preflight(context, **rights)

if context.plan is not None:
    with context.as_far_as_possible():
        # NVIDIA's driver, unless one works that is new enough; a reboot if it needs one and may have it
        driver(context, **rights)

        # NVIDIA's container toolkit, only where a container needs it to find the card
        toolkit(context, **rights)

        # Debian packages, bringup's tool, the engine in a virtual environment of its own, or its image
        runtime(context, **rights)

        # the weights: from a hub, the control machine, or a folder on the host
        model(context, **rights)

        # CUDA's compiler, only where kernels are made on the host
        cuda(context, **rights)

        # device nodes, persistence, power limit and clocks, again at each boot
        card(context, **rights)

        # the driver's versions, the link under load, errors in the log, a CUDA kernel through the engine's own PyTorch
        gpu_check(context, **rights)

        # kernel settings
        tuning(context, **rights)

        # user, release folder, unit; switched only after the engine's own parser accepts it, put back if it does not come up or
        # fails streamed requests against the acceptance lines
        switched = service(context, **rights)

        # only now: what was served until then may have needed it
        remove_cuda(context, **rights)

        # those requests, where nothing had to be switched and they are due
        smoke(context, switched, **rights)
