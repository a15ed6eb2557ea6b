"""The client against a server of known times and faults, and the event-stream decoder against any split."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.smoke.load import SseDecoder, run_load
from bringup.smoke.model import RequestSample, ServerInfo, SmokeRequest
from tests.unit.fake_openai import FakeOpenAI, Fault, free_port, serving


def measure(
    base_url: str, api_key: str | None = None, **changes: object
) -> tuple[ServerInfo, tuple[RequestSample, ...], list[tuple[str, int]]]:
    asked = {"model": "smol", "prompt": "Hello", "max_tokens": 6, "requests": 3, "warmup_requests": 1, "host": "here"}
    request = SmokeRequest.model_validate({"base_url": base_url, **asked, **changes})
    seen: list[tuple[str, int]] = []
    server, samples = asyncio.run(run_load(request, api_key, lambda phase, ended, _: seen.append((phase, ended))))
    return server, tuple(sample for sample in samples if not sample.warm_up), seen


def errors(fault: Fault, **changes: object) -> list[str | None]:
    with serving(FakeOpenAI(fault=fault)) as url:
        return [sample.error for sample in measure(url, **changes)[1]]


def test_times_are_at_least_what_the_server_waits_and_add_up() -> None:
    with serving(FakeOpenAI(ttft_s=0.05, itl_s=0.02)) as url:
        server, samples, seen = measure(url)
    assert server == ServerInfo(vllm_version="0.32.0", max_model_len=2048)
    assert seen == [("warm-up", 1), ("request", 1), ("request", 2), ("request", 3)]
    assert len(samples) == 3
    for sample in samples:
        assert sample.error is None
        assert sample.ttft_ms is not None
        assert sample.e2e_ms is not None
        assert sample.ttft_ms >= 49  # so the role-only first chunk, which comes at once, does not count
        assert len(sample.itl_ms) == 5
        assert sample.e2e_ms >= 49 + 5 * 20
        assert sample.e2e_ms == pytest.approx(sample.ttft_ms + sum(sample.itl_ms), abs=0.1)
        assert (sample.prompt_tokens, sample.completion_tokens) == (7, 6)


def test_the_server_is_asked_for_an_exact_length_with_usage_and_without_its_prefix_cache() -> None:
    fake = FakeOpenAI()
    with serving(fake) as url:
        measure(url, api_key="sesame")
    for body in fake.bodies:
        assert body["model"] == "smol"
        assert body["messages"] == [{"role": "user", "content": "Hello"}]
        assert body["max_completion_tokens"] == 6
        assert body["ignore_eos"] is True
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
    assert len({body["cache_salt"] for body in fake.bodies}) == len(fake.bodies) == 4
    for headers in fake.headers:
        assert headers["Authorization"] == "Bearer sesame"
        assert headers["Accept-Encoding"] == "identity"  # a proxy that compresses would hold tokens back


@pytest.mark.parametrize("write_bytes", [1, 7, 100_000])
def test_answers_are_the_same_however_the_stream_is_split(write_bytes: int) -> None:
    with serving(FakeOpenAI(write_bytes=write_bytes, itl_s=0.001)) as url:
        _, samples, _ = measure(url)
    assert [(len(sample.itl_ms), sample.completion_tokens, sample.error) for sample in samples] == [(5, 6, None)] * 3


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_are_in_flight_as_asked_for(concurrency: int) -> None:
    fake = FakeOpenAI(ttft_s=0.2)
    with serving(fake) as url:
        _, samples, seen = measure(url, concurrency=concurrency, requests=6, warmup_requests=0)
    assert fake.most_in_flight == concurrency
    assert len(samples) == 6
    assert [ended for _, ended in seen] == [1, 2, 3, 4, 5, 6]
    assert all(sample.error is None for sample in samples)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("http_500", ["HTTP 500", "the engine is [31mdead"]),
        ("error_in_stream", ["error in the stream", "KV cache is full"]),
        ("ends_early", ["ended early", "3 chunks"]),
        ("drops_connection", ["closed the connection early", "3 chunks"]),
        ("not_a_stream", ["application/json instead of a stream"]),
        ("garbage_in_stream", ["no completion chunk", "<html>"]),
        ("no_content", ["no content"]),
    ],
)
def test_each_fault_becomes_a_sample_with_its_cause_in_words(fault: Fault, says: list[str]) -> None:
    found = errors(fault)
    assert len(found) == 3
    for error, part in itertools.product(found, says):
        assert error is not None
        assert part in error
        assert error.isprintable()


def test_a_server_that_hangs_is_timed_out() -> None:
    assert errors("hangs", timeout_s=0.3, requests=2) == ["no complete answer within 0.3 s (0 chunks with content had come)"] * 2


def test_a_refused_connection_is_a_sample() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    server, samples, _ = measure(url)
    assert server == ServerInfo()
    assert len(samples) == 3
    assert all(sample.error and sample.error.startswith(f"cannot connect to {url}: ") for sample in samples)


def test_one_failure_leaves_the_others_measured() -> None:
    with serving(FakeOpenAI(fault="ends_early", faulty_requests=(2,))) as url:
        _, samples, _ = measure(url)
    assert [sample.error is None for sample in samples] == [True, False, True]
    assert samples[1].e2e_ms is None
    assert samples[1].ttft_ms is not None


def test_an_api_key_that_the_server_echoes_stays_out_of_the_sample() -> None:
    with serving(FakeOpenAI(fault="http_401_echoes_key")) as url:
        _, samples, _ = measure(url, api_key="sesame")
    assert [sample.error for sample in samples] == ["HTTP 401: wrong key: Bearer [API key]"] * 3


def test_counts_that_the_server_does_not_report_are_unknown_not_guessed() -> None:
    with serving(FakeOpenAI(fault="no_usage")) as url:
        _, samples, _ = measure(url)
    assert [(sample.completion_tokens, sample.error) for sample in samples] == [(None, None)] * 3


payloads = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=8)


@given(
    payloads,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", ": keep-alive", "event: message", "id: 7", ":"]),
    st.data(),
)
def test_a_stream_decodes_to_the_same_events_however_it_is_split(
    events: list[str], newline: str, other_line: str, data: st.DataObject
) -> None:
    stream = "".join(f"{other_line}{newline}data: {event}{newline}{newline}" for event in events).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(stream)])]
    decoder = SseDecoder()
    assert [event for piece in pieces for event in decoder.feed(piece)] == events


def test_data_lines_of_one_event_are_joined_and_an_unfinished_event_is_dropped() -> None:
    assert SseDecoder().feed(b"data: a\n:\ndata:b\n\ndata: cut short\n") == ["a\nb"]
