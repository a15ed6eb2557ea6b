"""Samples card, CPUs, the server's processes and its /metrics beside the load, from a process of its own."""
