"""Your hosts. A commented example: replace the names, and delete what you do not need.

Each list is a group; what its hosts are for stands in group_data/<group>.py, and a host's own data wins over its group's.
Try it with `pyinfra inventories/prod.py deploys/qwen.py --dry --diff`.
"""

# one workstation under a desk, reached as root
workstation = [
    ("workstation.example.org", {"ssh_user": "root"}),
]

# a few equal machines; sudo without a password is found and used by itself
fleet = [
    ("gpu-1.example.org", {"ssh_user": "ubuntu"}),
    ("gpu-2.example.org", {"ssh_user": "ubuntu"}),
    # a host's own setting goes before its group's
    ("gpu-3.example.org", {"ssh_user": "ubuntu", "port": 8001}),
]

# the first to get a change: `pyinfra … --limit canary`, look, then the rest
canary = ["gpu-1.example.org"]
