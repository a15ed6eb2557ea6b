"""bringup: takes a bare Linux machine to a tuned, verified vLLM server (facts, plan, state, proof)."""

__version__ = "0.1.0"
