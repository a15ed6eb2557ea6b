"""What vLLM's /metrics says of queue, KV cache and times; only the few lines that are used are parsed."""

import http.client
import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from bringup.smoke.sampler.proc import Reading

_TIMEOUT_S = 5.0
_MOST_BYTES = 8 * 2**20

_NAMES: Mapping[bytes, tuple[str, float]] = {
    b"vllm:num_requests_running": ("requests_running", 1),
    b"vllm:num_requests_waiting": ("requests_waiting", 1),
    b"vllm:kv_cache_usage_perc": ("kv_use_percent", 100),  # a part of 1, whatever its name says
    b"vllm:num_preemptions_total": ("preemptions_total", 1),
    b"vllm:request_success_total": ("server_requests_total", 1),
    b"vllm:time_to_first_token_seconds_count": ("server_ttft_count", 1),
    b"vllm:time_to_first_token_seconds_sum": ("server_ttft_sum_s", 1),
    b"vllm:request_queue_time_seconds_count": ("server_queue_count", 1),
    b"vllm:request_queue_time_seconds_sum": ("server_queue_sum_s", 1),
    b"vllm:request_prefill_time_seconds_count": ("server_prefill_count", 1),
    b"vllm:request_prefill_time_seconds_sum": ("server_prefill_sum_s", 1),
    b"vllm:e2e_request_latency_seconds_count": ("server_e2e_count", 1),
    b"vllm:e2e_request_latency_seconds_sum": ("server_e2e_sum_s", 1),
}
"""Names as in vLLM 0.32.0's v1/metrics/loggers.py."""
_MEANS = ("kv_use_percent",)
"""Of several engines the mean is told, not the sum."""


def parse_metrics(text: bytes) -> Reading:
    """Return the values that are used, added up over engines and labels; lines that are none are passed over."""
    sums: dict[str, list[float]] = {}
    at = text.find(b"vllm:")
    while at != -1:
        end = text.find(b"\n", at)
        line = text[at : end if end != -1 else len(text)]
        if at == 0 or text[at - 1] == 0x0A:  # not within a comment
            known = _NAMES.get(line.partition(b"{")[0].partition(b" ")[0])
            if known is not None:
                with suppress(ValueError):
                    value = float(line.rpartition(b" ")[2]) * known[1]
                    sums.setdefault(known[0], []).append(value)
        at = text.find(b"\nvllm:", end if end != -1 else len(text))
        at = at + 1 if at != -1 else -1
    return {name: sum(values) / (len(values) if name in _MEANS else 1) for name, values in sums.items()}


def kv_cache_tokens(text: bytes) -> int | None:
    """Return the size of the KV cache as vLLM says it, in tokens; of several engines the first one's; None where it is not told.

    vLLM 0.24 and newer tell the tokens in a label of `vllm:cache_config_info` (v1/engine/core_client.py); before that, blocks.
    """
    found = re.search(rb"^vllm:cache_config_info\{(.*)\}", text, re.MULTILINE)
    labels = dict(re.findall(rb'(\w+)="(\d+)"', found[1])) if found else {}
    if tokens := labels.get(b"kv_cache_size_tokens"):
        return int(tokens)
    blocks, size = labels.get(b"num_gpu_blocks"), labels.get(b"block_size")
    return int(blocks) * int(size) if blocks and size else None


class Metrics:
    """The server's /metrics page over one connection that stays open."""

    def __init__(self, base_url: str) -> None:
        """Ask the server at `base_url`; nothing is connected yet."""
        parts = urlsplit(base_url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        self._path = f"{parts.path}/metrics"
        self.note = ""
        """Why there is nothing; empty once there was something."""
        self._answered = False

    def read(self, now_s: float) -> Reading:
        """Ask once; nothing when the server does not answer."""
        try:
            self._connection.request("GET", self._path, headers={"Accept-Encoding": "identity"})
            response = self._connection.getresponse()
            text = response.read(_MOST_BYTES)
            if not response.isclosed():
                self._connection.close()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if not self._answered:
                self.note = f"{self._path} does not answer: {error}"
            return {}
        reading = parse_metrics(text) if response.status == 200 else {}
        if reading:
            self._answered, self.note = True, ""
        elif not self._answered:
            told = f"HTTP {response.status}" if response.status != 200 else "nothing of vLLM's"
            self.note = f"the server's /metrics tells {told}: its queue and KV cache were not sampled"
        return reading
