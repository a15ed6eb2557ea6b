"""The client against a server of known times and faults, and the event-stream decoder against any split."""

import itertools
from pathlib import Path
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.smoke.load import arrival_times
from bringup.smoke.model import RequestSample, ServerInfo, SmokeReport, SmokeRequest
from bringup.smoke.run import run_smoke
from bringup.smoke.sse import SseDecoder, parse_chunk
from bringup.smoke.summary import measured
from tests.unit.fake_openai import FakeOpenAI, Fault, free_port, serving


def run(base_url: str, **changes: object) -> tuple[SmokeReport, list[tuple[str, int, int | None]]]:
    asked = {"model": "smol", "prompt": "Hello", "max_tokens": 6, "requests": 3, "warmup_requests": 1, "host": "here"}
    request = SmokeRequest.model_validate({"base_url": base_url, **asked, **changes})
    seen: list[tuple[str, int, int | None]] = []
    report = run_smoke(request, lambda phase, ended, count, _: seen.append((phase, ended, count)), sample=False)
    return report, seen


def measure(base_url: str, **changes: object) -> list[RequestSample]:
    return measured(run(base_url, **changes)[0].stages[0].requests)


def errors(fault: Fault, **changes: object) -> list[str | None]:
    with serving(FakeOpenAI(fault=fault)) as url:
        return [sample.error for sample in measure(url, **changes)]


def test_times_are_at_least_what_the_server_waits_and_add_up() -> None:
    with serving(FakeOpenAI(ttft_s=0.05, itl_s=0.02)) as url:
        report, seen = run(url)
    samples = measured(report.stages[0].requests)
    assert report.server == ServerInfo(vllm_version="0.32.0", max_model_len=2048, served_models=("smol", "other"))
    assert seen == [("warm-up", 1, 1), ("smoke", 1, 3), ("smoke", 2, 3), ("smoke", 3, 3)]
    assert len(samples) == 3
    for sample in samples:
        assert sample.error is None
        assert sample.ttft_ms is not None
        assert sample.e2e_ms is not None
        assert sample.ttft_ms >= 49  # so the role-only first chunk, which comes at once, does not count
        assert len(sample.itl_ms) == 5
        assert sample.e2e_ms >= 49 + 5 * 20
        assert sample.e2e_ms == pytest.approx(sample.ttft_ms + sum(sample.itl_ms), abs=0.1)
        assert sample.tpot_ms == pytest.approx(sum(sample.itl_ms) / 5, abs=0.1)
        assert (sample.prompt_tokens, sample.completion_tokens) == (7, 6)


def test_the_server_is_asked_for_an_exact_length_with_usage_and_without_its_prefix_cache(tmp_path: Path) -> None:
    fake = FakeOpenAI()
    key = tmp_path / "key"
    key.write_text("sesame\n")
    with serving(fake) as url:
        measure(url, api_key_file=str(key))
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
        samples = measure(url)
    assert [(len(sample.itl_ms), sample.completion_tokens, sample.error) for sample in samples] == [(5, 6, None)] * 3


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_are_in_flight_as_asked_for_until_the_last_measured_one_ends(concurrency: int) -> None:
    fake = FakeOpenAI(ttft_s=0.2)
    with serving(fake) as url:
        report, seen = run(url, concurrency=concurrency, requests=7, warmup_requests=0)
    assert fake.most_in_flight == concurrency
    assert [ended for phase, ended, _ in seen if phase == "smoke"] == [1, 2, 3, 4, 5, 6, 7]
    samples = report.stages[0].requests
    counted = measured(samples)
    assert len(counted) == 7
    assert all(sample.error is None for sample in counted)
    # each stream is warmed up once, and goes on until the last one that counts has ended
    assert [sample.warm_up for sample in samples[:concurrency]] == [True] * concurrency
    last_end = max(sample.sent_s + (sample.e2e_ms or 0) / 1000 for sample in counted)
    kept_up = [sample for sample in samples[concurrency:] if sample.warm_up]
    assert len(kept_up) >= concurrency - 1
    assert all(sample.sent_s <= last_end for sample in kept_up)


def test_a_stall_shows_in_open_loop_since_requests_count_from_when_they_were_due() -> None:
    # the server stands still for a second at the 20th request; at 40 a second, 40 more are due meanwhile
    fake = FakeOpenAI(ttft_s=0.005, tokens=1, stall_at=20, stall_s=1.0)
    with serving(fake) as url:
        report, _ = run(url, rate_rps=40, arrivals="constant", requests=100, warmup_requests=4, max_tokens=1)
    [stage] = report.stages
    assert stage.summary.ttft is not None
    assert stage.summary.ttft.p99 >= 900
    assert stage.summary.ttft.p50 < 500
    late = [sample for sample in measured(stage.requests) if (sample.ttft_ms or 0) > 100]
    assert len(late) >= 30  # a client that waits would have one
    due = [sample.intended_s for sample in stage.requests]
    assert [round(after - before, 3) for before, after in itertools.pairwise(due)] == [0.025] * (len(due) - 1)


def test_poisson_arrivals_have_the_asked_rate_and_are_the_same_for_the_same_seed() -> None:
    def first(count: int, seed: int) -> list[float]:
        return list(itertools.islice(arrival_times("poisson", 50, seed), count))

    times = first(5000, 1)
    assert times == first(5000, 1) != first(5000, 2)
    assert times[-1] / 5000 == pytest.approx(1 / 50, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert stdev(gaps) == pytest.approx(1 / 50, rel=0.05)  # of an exponential distribution, mean and deviation are equal


def test_nothing_more_is_sent_where_nothing_succeeds() -> None:
    fake = FakeOpenAI(fault="http_500")
    with serving(fake) as url:
        report, _ = run(url, requests=1000)
    assert len(fake.bodies) == 4
    assert report.outcome == "FAIL"
    assert report.reason == "No request succeeded; 3 of 3 failed with: HTTP 500: the engine is [31mdead"


def test_completions_are_measured_like_chat() -> None:
    fake = FakeOpenAI(itl_s=0.001)
    with serving(fake) as url:
        samples = measure(url, api="completions")
    assert {(len(sample.itl_ms), sample.completion_tokens, sample.error) for sample in samples} == {(5, 6, None)}
    assert {body["prompt"] for body in fake.bodies} == {"Hello"}
    assert {body["max_tokens"] for body in fake.bodies} == {6}


def test_a_server_that_is_not_vllm_gets_no_field_that_it_may_refuse() -> None:
    fake = FakeOpenAI(is_vllm=False)
    with serving(fake) as url:
        assert all(sample.error is None for sample in measure(url))
    for body in fake.bodies:
        assert body.keys() == {"model", "messages", "max_tokens", "stream", "stream_options"}


def test_thinking_aloud_is_content() -> None:
    assert parse_chunk('{"choices": [{"delta": {"reasoning_content": "hm"}}]}').text == "hm"
    assert parse_chunk('{"choices": [{"delta": {"role": "assistant", "content": ""}}]}').text == ""
    assert parse_chunk('{"choices": [{"text": "word"}]}').text == "word"
    assert parse_chunk('{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}').completion_tokens == 4
    assert parse_chunk("[DONE]").done


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
    report, _ = run(url)
    assert report.server == ServerInfo()
    assert len(measured(report.stages[0].requests)) == 3
    assert all(sample.error and sample.error.startswith(f"cannot connect to {url}: ") for sample in report.stages[0].requests)


def test_one_failure_leaves_the_others_measured() -> None:
    with serving(FakeOpenAI(fault="ends_early", faulty_requests=(2,))) as url:
        samples = measure(url)
    assert [sample.error is None for sample in samples] == [True, False, True]
    assert samples[1].e2e_ms is None
    assert samples[1].ttft_ms is not None


def test_an_api_key_that_the_server_echoes_stays_out_of_the_sample(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame")
    with serving(FakeOpenAI(fault="http_401_echoes_key")) as url:
        samples = measure(url, api_key_file=str(key))
    assert [sample.error for sample in samples] == ["HTTP 401: wrong key: Bearer [API key]"] * 3


def test_counts_that_the_server_does_not_report_are_unknown_not_guessed() -> None:
    with serving(FakeOpenAI(fault="no_usage")) as url:
        samples = measure(url)
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
