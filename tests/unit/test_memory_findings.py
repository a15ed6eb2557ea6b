"""What the plan says of a machine's memory."""

import pytest

from bringup.hardware import MemoryFacts, MemoryModule
from bringup.plan.memory import memory_findings


def memory(
    modules: int, channels: int | None, rated_mt_s: int | None, configured_mt_s: int | None, empty_slots: int = 0
) -> MemoryFacts:
    module = MemoryModule(
        locator="DIMM_A1",
        bank="",
        size_mib=16384,
        type="DDR5",
        rated_mt_s=rated_mt_s,
        configured_mt_s=configured_mt_s,
        data_width_bits=64,
        total_width_bits=64,
    )
    return MemoryFacts(
        modules=(module,) * modules,
        empty_slots=empty_slots,
        type="DDR5",
        rated_mt_s=rated_mt_s,
        configured_mt_s=configured_mt_s,
        channels=channels,
        channels_inferred=False,
        channels_reason="as given",
        total_gib=16.0 * modules,
        bandwidth_gb_s=None,
        ecc=False,
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        pytest.param(memory(4, 2, 6000, 3600), [("6000", "3600", "two modules share a channel")], id="four-modules"),
        pytest.param(memory(2, 2, 5600, 4400), [("5600", "4400", "perhaps EXPO or XMP is off")], id="profile-off"),
        pytest.param(memory(1, 1, 4800, 4800, empty_slots=3), [("one memory channel",)], id="one-channel"),
        pytest.param(memory(1, 1, 4800, 4800), [], id="one-slot-only"),
        pytest.param(memory(2, 2, 4800, 6000), [], id="faster-than-rated"),
        pytest.param(memory(2, None, None, None), [], id="unknown"),
        pytest.param(None, [], id="no-dmidecode"),
    ],
)
def test_findings(facts: MemoryFacts | None, words: list[tuple[str, ...]]) -> None:
    texts = [finding.text for finding in memory_findings(facts)]
    assert len(texts) == len(words)
    for text, expected in zip(texts, words, strict=True):
        assert all(word in text for word in expected)
