"""What each figure means. Reports show `DEFINITIONS`, so that the words beside the numbers are those that the code follows.

A *chunk with content* is an event of the stream whose text is not empty: `delta.content` (chat) or `text` (completions), or the
words of a model that reasons aloud (`reasoning_content`, in newer vLLM `reasoning`), since they are tokens that the user waited
for and pays for. The first chunk of a chat stream holds the role alone and does not count; neither does the last, which holds the
usage, nor a keep-alive comment.

Arrival is when the bytes that end the event were handed to the client by its socket, before they are decoded.
"""

from typing import Final

DEFINITIONS: Final[dict[str, str]] = {
    "TTFT": "time to first token: from sending the request (open loop: from when it was due) to the first chunk with content",
    "ITL": "inter-token latency: gap between a chunk with content and the next, over all gaps of all requests",
    "TPOT": "time per output token: (E2E - TTFT) / (output tokens - 1), one number a request",
    "E2E": "end to end: from sending the request (open loop: from when it was due) to the last chunk with content",
    "P50, P90, P99": "nearest rank: the smallest value that so many percent of the values do not exceed",
    "tokens/s": "output tokens of all streams that arrived from the first measured request's start to the last one's end,"
    " over that time",
    "goodput": "requests a second that succeeded within the limits of all lines",
    "not counted": "warm-up, and requests that only keep the load up while the last measured ones end",
    "prefix cache": "each request is salted where the server is vLLM, so that its cache does not flatter TTFT",
    "PASS": "the line is proven: did it not hold, a result this good would have at most 5 % probability",
    "FAIL": "the line is refuted likewise",
    "INCONCLUSIVE": "the requests that were measured prove neither",
}
"""Term to meaning, in the order in which reports show them."""
