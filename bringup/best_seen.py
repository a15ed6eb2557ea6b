"""What a server was seen to reach of what the hardware allows, for predictions and for what is said of misses."""

BEST_SEEN_RATIO = 0.55
"""Part of the floor's speed that was reached: bf16 weights on an H100, vLLM 0.24.0, one stream: 2.4 ms of 4.36 ms (2026-11-24)."""
