"""Settings of every host in inventories/prod.py (the file's name is a group too). The README lists all names.

A name stands either here or in a list's own file: pyinfra lets this file win. A single host's data, in prod.py, wins over both.
"""

# the weights, pinned to the revision in bringup/catalog/models.yaml
model = "Qwen/Qwen3-4B-Instruct-2507"
model_source = {"kind": "hub", "hub": "huggingface"}
# behind a slow line, name a mirror:
# model_source = {"kind": "hub", "hub": "huggingface", "endpoint": "https://mirror.example.org"}
# or copy a folder that is on this machine already:
# model_source = {"kind": "control-folder", "path": "/srv/models/Qwen3-4B-Instruct-2507"}

# 256 tokens in 1.1 s, the profile's own line, is out of reach for 16-bit weights on 1008 GB/s (the plan says so); this one is not
acceptance = {"e2e_p90_ms": 4000}
