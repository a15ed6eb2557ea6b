"""Memory modules and channels, on dumps of real machines where they are at hand, and on texts in the vendors' spellings."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.probe.dmidecode import parse_memory

DUMPS = Path(__file__).parents[3] / "shared/dmi"

# what a person reads off each dump: populated channels, whether that is inferred, configured MT/s, GiB
READ_BY_HAND = {
    "Desktop-ASRock-WRX90_WS_EVO-D54E54": (8, False, 4800, 256),
    "Desktop-ASRock-Z790M-ITX_WiFi-754328": (2, False, 4800, 64),
    "Desktop-ASRock-Z790_Steel_Legend_WiFi-276312": (2, False, 3600, 128),
    "Desktop-ASUSTek_Computer-PRIME_B650-PLUS-2C8E0F": (2, False, 6000, 32),
    "Desktop-ASUSTek_Computer-PRIME_B760M-K-858304": (1, False, 4800, 16),
    "Desktop-ASUSTek_Computer-PRIME_X670-P_WIFI-C4B552": (1, False, 4800, 16),
    "Desktop-ASUSTek_Computer-PRIME_Z690-A-2967AA": (1, False, 4000, 64),
    "Desktop-ASUSTek_Computer-Pro_B760M-CT-1A3F34": (1, False, 4800, 8),
    "Desktop-ASUSTek_Computer-Pro_WS_W790E-SAGE_SE-126AD6": (2, False, 5614, 128),
    "Desktop-ASUSTek_Computer-ROG_STRIX_B660-I_GAMING_WIFI-029EAC": (2, False, 4800, 32),
    "Desktop-ASUSTek_Computer-ROG_STRIX_X670E-E_GAMING_WIFI-7E5872": (2, False, 3600, 64),
    "Desktop-ASUSTek_Computer-ROG_STRIX_Z790-E_GAMING_WIFI-ED25E7": (2, False, 4200, 128),
    "Desktop-Dell-OptiPlex_Tower_Plus_7010-C45F0D": (2, True, 4400, 32),
    "Desktop-Dell-Precision_3460-AEEBEE": (1, False, 4800, 32),
    "Desktop-Dell-Precision_3660-49B262": (2, True, 3600, 128),
    "Desktop-Gigabyte_Technology-B760M_AORUS_ELITE-DD9AE7": (1, False, 4800, 32),
    "Desktop-Gigabyte_Technology-B760_GAMING_X_AX-40206D": (1, False, 5600, 32),
    "Desktop-Gigabyte_Technology-Z790_A_PRO_X_WIFI7-A2C6FD": (2, False, 6600, 48),
    "Desktop-Hewlett-Packard-Elite_Tower_800_G9_Desktop_PC-C11833": (2, False, 4400, 64),
    "Desktop-Hewlett-Packard-OMEN_by_40L_Gaming_Desktop_GT21-1xxx-AB5198": (2, True, 5200, 64),
    "Desktop-Hewlett-Packard-Z2_SFF_G9_Workstation_Desktop_PC-AEBA5B": (1, False, 4400, 16),
    "Desktop-Lenovo-Legion_T7_34IAZ7_90S1000JUS-1034BC": (2, False, 4000, 64),
    "Desktop-Lenovo-ThinkStation_P5_30GACTO1WW-090D72": (2, True, 4400, 32),
    "Desktop-MSI-MS-7D29-F1763B": (2, False, 4800, 32),
    "Desktop-MSI-MS-7D67-AC999C": (2, False, 3600, 128),
    "Desktop-MSI-MS-7D75-3A3993": (2, False, 6000, 32),
    "Desktop-MSI-MS-7D75-EAD3B1": (1, False, 5600, 32),
    "Desktop-MSI-MS-7D76-540118": (1, False, 4800, 16),
    "Desktop-MSI-MS-7D78-5387B1": (2, False, 5200, 32),
    "Desktop-MSI-MS-7E01-A7443E": (1, False, 4800, 16),
    "Desktop-MSI-MS-7E06-858FE1": (2, True, 4400, 64),
    "Desktop-MSI-MS-7E07-3333F5": (2, False, 5600, 128),
    "Desktop-MSI-MS-7E12-213CB7": (2, False, 4600, 64),
    "Desktop-NTT_SYSTEM-KOMPUTER_NTT_BUSINESS_W900A-601D3F": (2, False, 4200, 48),
    "Desktop-Others-Others-3D62E3": (1, False, 4800, 16),
    "Desktop-PELADN-HA-4-5A2CCD": (1, False, 5600, 16),
    "Desktop-Supermicro-SYS-111R-M-2B155A": (1, False, 4000, 32),
    "Desktop-Supermicro-SYS-121H-TNR-7BBB90": (4, False, 4800, 128),
    "Desktop-System76-Thelio_Major-AF625F": (2, False, 4000, 96),
    "Desktop-Win_Element-M9S-701A7A": (1, False, 4800, 48),
    "Desktop-iBUYPOWER-13th_Gen_Intel_i7-13700F-0BB903": (2, False, 5200, 32),
    "Server-ASRockRack-GENOAD12M3-2Q-H-AF39B8": (9, False, 4800, 576),
    "Server-Dell-PowerEdge_R6615-71A1F0": (12, True, 4800, 384),
    "Server-Giga_Computing-MC13-LE1-000-338E31": (1, False, 4800, 16),
    "Server-HPE-Cray_SC_XD665-64BB2D": (24, False, 4800, 1536),
    "Server-Intel-ArcherCity-35F42C": (1, False, 4800, 32),
    "Server-OEM-TG659V2-87ED2D": (24, False, 4800, 1536),
    "Server-Others-0024FG_A01-FF97E4": (8, True, 4800, 256),
    "Server-Supermicro-Super_Server-6403FD": (2, False, 4800, 16),
    "Server-Supermicro-Super_Server-A5DA01": (8, False, 4400, 256),
}


@pytest.mark.parametrize("name", READ_BY_HAND)
def test_real_machine(name: str) -> None:
    dump = DUMPS / f"{name}.txt"
    if not dump.is_file():
        pytest.skip("the dumps of real machines (../shared/dmi) are not here")
    facts = parse_memory(dump.read_text(errors="replace"))
    channels, inferred, configured_mt_s, gib = READ_BY_HAND[name]
    assert (facts.channels, facts.channels_inferred, facts.configured_mt_s, facts.total_gib) == (
        channels,
        inferred,
        configured_mt_s,
        gib,
    )
    assert facts.type == "DDR5"
    assert facts.bandwidth_gb_s == pytest.approx(channels * 8 * configured_mt_s / 1000)


EMPTY = "No Module Installed"


def device(
    locator: str,
    bank: str = "Not Specified",
    size: str = "16 GB",
    kind: str = "DDR5",
    speed: str = "4800 MT/s",
    width: str = "64 bits",
    configured: str | None = None,
) -> str:
    return (
        f"Handle 0x0001, DMI type 17, 92 bytes\nMemory Device\n\tTotal Width: {width}\n\tData Width: {width}\n\tSize: {size}\n"
        f"\tLocator: {locator}\n\tBank Locator: {bank}\n\tType: {kind}\n\tSpeed: {speed}\n"
        f"\tConfigured Memory Speed: {configured or speed}\n\tNon-Volatile Size: None\n"
    )


def dump(*devices: str, processors: int = 0) -> str:
    sockets = ["Handle 0x0002, DMI type 4, 48 bytes\nProcessor Information\n\tStatus: Populated, Enabled\n"] * processors
    return "# dmidecode 3.5\n\n" + "\n".join([*sockets, *devices])


def slots(names: list[str], populated: list[str], **fields: str) -> list[str]:
    """Slots of these names ("locator" or "bank | locator"), some with a module."""
    places = [(name.rpartition(" | ")[2], name.rpartition(" | ")[0] or "Not Specified", name) for name in names]
    return [device(locator, bank, **(fields if name in populated else {"size": EMPTY})) for locator, bank, name in places]


def numbered(form: str, last: int, populated: list[int], **fields: str) -> list[str]:
    return slots([form.format(n) for n in range(1, last + 1)], [form.format(n) for n in populated], **fields)


def named(*names: str, **fields: str) -> list[str]:
    return slots(list(names), list(names), **fields)


@pytest.mark.parametrize(
    ("devices", "channels", "inferred"),
    [
        pytest.param(named("BANK 0 | ChannelA-DIMM0", "BANK 2 | ChannelB-DIMM0", kind="DDR4"), 2, False, id="Intel-DDR4"),
        pytest.param(named("Controller0-ChannelA-DIMM0", "Controller1-ChannelB-DIMM0"), 2, False, id="Intel-controllers"),
        pytest.param(named("Controller0-ChannelA-DIMM0", "Controller0-ChannelB-DIMM1"), 1, False, id="DDR5-one-controller"),
        pytest.param(named("Controller0-ChannelA-DIMM0", "Controller0-ChannelB-DIMM0", kind="DDR4"), 2, False, id="DDR4-Rocket"),
        pytest.param(named("Controller0-ChannelA-DIMM0", "Controller1-ChannelA-DIMM0", kind="DDR4"), 2, False, id="DDR4-Tiger"),
        pytest.param(named("Channel-0-DIMM-1", "Channel-1-DIMM-1"), 2, False, id="channel-numbers"),
        pytest.param(named("Bench 1 | DIMM1", "Bench 1 | DIMM2"), 2, True, id="no-channel-in-a-word"),
        pytest.param(named("Controller0-DIMM1", "Controller1-DIMM1", kind="DDR4"), 2, False, id="DDR4-no-letter"),
        pytest.param(named("Controller0ChannelADimm1 | DIMM3", "Controller1ChannelBDimm1 | DIMM1"), 2, False, id="HP"),
        pytest.param(named("P0 CHANNEL A | DIMM 0", "P0 CHANNEL B | DIMM 0"), 2, False, id="AMD"),
        pytest.param(named("P0_CH_A | DIMM_A1", "P0_CH_A | DIMM_A2"), 1, False, id="two-in-one-channel"),
        pytest.param(named("DIMM_A2", "DIMM_B2"), 2, False, id="letters"),
        pytest.param(named("BANK 0 | DDR5_A1", "BANK 1 | DDR5-B1"), 2, False, id="Gigabyte"),
        pytest.param(named("BANK 0 | DIMM A", "BANK 2 | DIMM B"), 2, False, id="Dell-notebook"),
        pytest.param(named(*(f"P0_Node0_Channel{c}_Dimm0 | DIMM{c}1" for c in "89AB")), 4, False, id="hexadecimal-channels"),
        pytest.param(named(*(f"BANK {s}{c} | CPU{s}_DIMM_{c}" for s in "01" for c in "ABC")), 6, False, id="letter-alone"),
        pytest.param(named(*(f"Main Board/CPU {s} | DIMM A1" for s in range(4))), 4, False, id="processor-in-the-bank"),
        pytest.param(named(*(f"NODE {s} CHANNEL {c} DIMM {d} | D{s}{c}{d}" for s in "01" for c in "012" for d in "01")), 6, False),
        pytest.param(named("SOCKET 0 CHANNEL 0 DIMM 0 | DIMM000", "SOCKET 1 CHANNEL 0 DIMM 0 | DIMM100"), 2, False, id="Huawei"),
        pytest.param(named("CPU0_C0D0", "CPU0_C1D0", "CPU0_C1D1", "CPU1_C0D0"), 3, False, id="Inspur"),
        pytest.param(named("DIMM_P0_A0", "DIMM_P0_A1", "DIMM_P0_B0", "DIMM_P1_A0"), 3, False, id="Gigabyte-server"),
        pytest.param(named("DIMM_P0_A0", kind="<OUT OF SPEC>"), 1, False, id="dmidecode-older-than-DDR5"),
        pytest.param(numbered("DIMM {}", 2, [1]), 1, False, id="one-module"),
        pytest.param(numbered("DIMM{}", 4, [1, 2, 3, 4]), 2, True, id="desktop-that-does-not-tell"),
        pytest.param(numbered("DIMM{}", 4, [1, 3]), 2, True, id="desktop-half-full"),
        pytest.param(slots(["DIMM4", "DIMM3", "DIMM2", "DIMM1"], ["DIMM4", "DIMM3"]), 1, True, id="listed-by-channel"),
        pytest.param(named("Bottom-Slot 1(left)", "Bottom-Slot 2(right)"), 2, True, id="HP-notebook"),
        pytest.param(named("BANK 0 | Channel-0-DIMM-1") * 2, 2, True, id="one-name-for-two-modules"),
        pytest.param(named("BANK 0 | Motherboard", "BANK 1 | DIMM 0", kind="DDR4"), 2, True, id="soldered-and-SODIMM"),
        pytest.param(numbered("A{}", 4, [1, 2]), 2, True, id="Dell-entry-server"),
        pytest.param(numbered("A{}", 16, [1, 9]), 1, True, id="Dell-second-slot-of-a-channel"),
        pytest.param(
            numbered("A{}", 8, [*range(1, 9)]) + numbered("B{}", 8, [*range(1, 9)]), 16, True, id="Dell-one-slot-a-channel"
        ),
        pytest.param(numbered("A{}", 12, [1, 2, 3, 4], kind="DDR4"), 4, True, id="Dell-DDR4-however-wired"),
        pytest.param(numbered("A{}", 12, [*range(1, 7)], kind="DDR4"), None, False, id="Dell-DDR4-that-depends"),
        pytest.param(numbered("PROC 1 DIMM {}", 16, [3, 7, 10, 14]), 4, True, id="HPE"),
        pytest.param(numbered("PROC 1 DIMM {}", 16, [3, 4]), 1, True, id="HPE-two-in-one-channel"),
        pytest.param(numbered("CPU0 | CPU0-DIMM{}", 8, [1, 3, 6, 8]), 4, True, id="HP-workstation"),
        pytest.param(numbered("CPU0 | CPU0-DIMM{}", 8, [*range(1, 9)]), None, False, id="HP-workstation-that-depends"),
        pytest.param(numbered("DIMM{}", 24, [1, 2]), None, False, id="wired-either-way"),
        pytest.param(slots([f"A{n}" for n in (1, 2, 3, 4, 9, 10, 11, 12)], ["A1", "A9"]), None, False, id="slots-left-out"),
        pytest.param(slots([f"DIMM{n}" for n in (1, 5, 2, 6, 3, 7, 4, 8)], ["DIMM1", "DIMM2"]), 2, True, id="Dell-workstation"),
        pytest.param(named(*(f"NODE {n // 2} | CPU0_DIMM_{n}" for n in range(8))), 8, True, id="two-channels-a-node"),
        pytest.param(named(*(f"NODE {n // 4} | CPU0_DIMM_{n}" for n in range(8))), 4, True, id="two-modules-a-channel-of-a-node"),
        pytest.param(named(*(f"NODE {n // 8} | CPU0_DIMM_{n}" for n in range(16))), None, False, id="node-that-is-no-controller"),
        pytest.param(named("ChannelA TOP1", "ChannelA TOP2"), 1, False, id="no-processor-in-a-word"),
        pytest.param(named("DIMM1", "DIMM2", kind="<OUT OF SPEC>"), 2, True, id="dmidecode-older-than-DDR5-numbers"),
        pytest.param(numbered("Slot {}", 8, [*range(1, 9)], kind="DDR4"), None, False, id="server-that-does-not-tell"),
        pytest.param(numbered("DIMM {}", 1, [1], kind="RAM", speed="Unknown"), None, False, id="QEMU"),
        pytest.param(named("RAM slot #0 | RAM slot #0", kind="DRAM", speed="Unknown"), None, False, id="VMware"),
        pytest.param(named("None | M0001", kind="Unknown", speed="Unknown", width="Unknown"), None, False, id="Hyper-V"),
        pytest.param(numbered("DIMM {}", 2, []), None, False, id="no-module"),
    ],
)
def test_spelling(devices: list[str], channels: int | None, inferred: bool) -> None:
    facts = parse_memory(dump(*devices))
    assert (facts.channels, facts.channels_inferred) == (channels, inferred)
    assert facts.channels_reason


@pytest.mark.parametrize(
    ("slots_in_all", "populated", "channels"),
    [
        pytest.param(32, [1, 3, 17, 19], 4, id="numbered-throughout"),  # however they are wired, two channels a processor
        pytest.param(4, [1, 2, 3, 4], None, id="few-slots-but-no-desktop"),
    ],
)
def test_two_processors(slots_in_all: int, populated: list[int], channels: int | None) -> None:
    assert parse_memory(dump(*numbered("DIMM {}", slots_in_all, populated), processors=2)).channels == channels


@pytest.mark.parametrize(
    ("names", "width", "kind", "channels", "inferred"),
    [
        pytest.param([f"Package {n}" for n in range(8)], 16, "LPDDR5", 2, False, id="8x16"),
        pytest.param([f"P0 CHANNEL {c} | DIMM 0" for c in "ABCD"], 32, "LPDDR5", 2, False, id="AMD-4x32"),
        pytest.param([f"P0 CHANNEL {c} | DIMM 0" for c in "ABCDEFGH"], 32, "LPDDR5", 4, False, id="AMD-256-bits"),
        pytest.param([f"P0 CHANNEL {c} | DIMM 0" for c in "ABCD"], 64, "LPDDR5", 2, True, id="AMD-claims-too-much"),
        pytest.param([f"Controller{n}-Channel{c}" for n in "01" for c in "ABCD"], 16, "LPDDR5", 2, False, id="Intel-8x16"),
        pytest.param(
            [f"Controller{n}-Channel{c}" for n in "01" for c in "ABCD"], 64, "LPDDR5", 2, True, id="Intel-claims-too-much"
        ),
        pytest.param([f"Controller0-Channel{c}" for c in "ABCD"], 32, "LPDDR5", 1, True, id="Intel-one-controller"),
        pytest.param([f"Controller0-Channel{c}" for c in "ABCD"], 32, "LPDDR4", 2, False, id="Intel-LPDDR4-4x32"),
        pytest.param(["Controller0-ChannelA", "Controller1-ChannelA"], 64, "LPDDR5", 2, False, id="Intel-2x64"),
        pytest.param(["Controller0-ChannelA", "Controller1-ChannelA"], None, "LPDDR5", 2, True, id="Intel-without-widths"),
        pytest.param(["Motherboard", "Motherboard"], None, "LPDDR5", None, False, id="without-widths"),
        pytest.param(["Motherboard"], 32, "LPDDR4", None, False, id="narrower-than-a-channel"),
        pytest.param(["CAMM2"], 128, "LPDDR5", 2, False, id="LPCAMM2"),
        pytest.param([f"P0 CHANNEL {c} | DIMM 0" for c in "ABCD"], 32, "DDR5", 2, False, id="DDR5-in-halves"),
        pytest.param([f"P0 CHANNEL {c} | DIMM 0" for c in "ABCD"], 32, "<OUT OF SPEC>", 2, False, id="dmidecode-older-than-LPDDR5"),
    ],
)
def test_soldered_memory_counts_by_its_width(
    names: list[str], width: int | None, kind: str, channels: int | None, inferred: bool
) -> None:
    facts = parse_memory(dump(*named(*names, kind=kind, width=f"{width} bits" if width else "Unknown")))
    assert (facts.channels, facts.channels_inferred) == (channels, inferred)


@pytest.mark.parametrize("kind", ["Flash", "EEPROM", "Logical non-volatile device"])
def test_flash_is_not_main_memory(kind: str) -> None:
    facts = parse_memory(dump(device("DIMM_A1"), device("SYSTEM ROM", size="16 MB", kind=kind)))
    assert (len(facts.modules), facts.empty_slots, facts.total_gib) == (1, 0, 16)


@pytest.mark.parametrize("size", ["16 GB", "16 GiB", "16384 MB", "16384 MiB", "16777216 kB", "16GB"])
def test_sizes_in_every_unit(size: str) -> None:
    facts = parse_memory(dump(device("DIMM_A1", size=size), device("DIMM_B1", size=size)))
    assert (facts.total_gib, facts.channels, facts.empty_slots) == (32, 2, 0)


@pytest.mark.parametrize("size", [EMPTY, "Unknown", "0 MB", "None", "Not Installed"])
def test_slot_without_a_module(size: str) -> None:
    facts = parse_memory(dump(device("DIMM_A1"), device("DIMM_B1", size=size)))
    assert (facts.total_gib, facts.channels, facts.empty_slots) == (16, 1, 1)


@pytest.mark.parametrize(
    ("speeds", "rated", "configured", "bandwidth"),
    [
        pytest.param([("4800 MT/s", "6000 MT/s")] * 2, 4800, 6000, 96.0, id="overclocked"),
        pytest.param([("4800 MT/s", "4400 MT/s"), ("5600 MT/s", "4400 MT/s")], 4800, 4400, 70.4, id="mixed"),
        pytest.param([("3200 MHz", "2666 MHz")] * 2, 3200, 2666, 42.656, id="older-dmidecode"),
        pytest.param([("4800 MT/s", "Unknown")] * 2, 4800, None, None, id="unknown"),
        pytest.param([("4800 MT/s", "0 MT/s"), ("Unknown", "4400 MT/s")], 4800, 4400, 70.4, id="known-of-one-module"),
    ],
)
def test_speeds(speeds: list[tuple[str, str]], rated: int | None, configured: int | None, bandwidth: float | None) -> None:
    devices = [device(f"DIMM_{c}1", speed=speed, configured=now) for c, (speed, now) in zip("AB", speeds, strict=True)]
    facts = parse_memory(dump(*devices))
    assert (facts.rated_mt_s, facts.configured_mt_s, facts.bandwidth_gb_s) == (rated, configured, pytest.approx(bandwidth))


def test_layout_of_the_text_does_not_matter() -> None:
    text = dump(device("DIMM_A1"), device("DIMM_B1"))
    assert parse_memory(text.replace("\n", "\r\n")) == parse_memory(text)
    assert parse_memory(text.replace("\n", "\n    ").replace("    Handle", "Handle")) == parse_memory(text)
    assert parse_memory(text.replace("\n\n", "\n")) == parse_memory(text)


def test_text_without_memory_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="as root"):
        parse_memory("/sys/firmware/dmi/tables/smbios_entry_point: Permission denied\nCan't read memory from /dev/mem\n")


def only_valueerror(text: str) -> None:
    try:
        facts = parse_memory(text)
    except ValueError:
        return
    assert facts.channels is None or facts.channels >= 1
    assert (facts.channels is None) <= (facts.bandwidth_gb_s is None)
    assert facts.channels is not None or not facts.channels_inferred
    assert facts.channels_reason


@given(st.text() | st.text().map(lambda words: f"Memory Device\n{words}"))
def test_rubbish_is_refused(text: str) -> None:
    only_valueerror(text)


LINES = dump(device("DIMM_A1", "P0 CHANNEL A"), device("A1"), device("Controller0-DIMM0")).splitlines()


@given(st.lists(st.sampled_from(LINES) | st.text()))
def test_shuffled_lines_are_refused_or_parsed(lines: list[str]) -> None:
    only_valueerror("\n".join(lines))


WORDS = ["P0", "CPU1", "PROC ", "NODE 1", "CHANNEL ", "Controller", "DIMM", "_", "-", " ", "A", "B", "0", "1", "12", "٣", "²"]
NAMES = st.lists(st.sampled_from(WORDS) | st.characters(), max_size=5).map("".join)
DEVICES = st.builds(
    device,
    locator=NAMES,
    bank=NAMES,
    size=st.sampled_from(["16 GB", "8 GiB", EMPTY, "٣ GB", "999999999 TB"]) | st.text(),
    kind=st.sampled_from(["DDR5", "DDR4", "LPDDR5", "RAM", "<OUT OF SPEC>"]) | st.text(),
    width=st.sampled_from(["64 bits", "32 bits", "16 bits", "² bits", "Unknown"]) | st.text(),
    speed=st.sampled_from(["4800 MT/s", "0 MT/s", "Unknown"]) | st.text(),
)


@given(st.lists(DEVICES, max_size=9), st.integers(0, 3))
def test_machine_that_does_not_exist_is_refused_or_parsed(devices: list[str], processors: int) -> None:
    only_valueerror(dump(*devices, processors=processors))
