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


def device(locator: str, bank: str = "Not Specified", size: str = "16 GB", kind: str = "DDR5", speed: str = "4800 MT/s") -> str:
    return (
        f"Handle 0x0001, DMI type 17, 92 bytes\nMemory Device\n\tTotal Width: 64 bits\n\tData Width: 64 bits\n\tSize: {size}\n"
        f"\tLocator: {locator}\n\tBank Locator: {bank}\n\tType: {kind}\n\tSpeed: {speed}\n\tConfigured Memory Speed: {speed}\n"
    )


def dump(*devices: str) -> str:
    return "# dmidecode 3.5\n\n" + "\n".join(devices)


@pytest.mark.parametrize(
    ("devices", "channels", "inferred"),
    [
        pytest.param([device("ChannelA-DIMM0", "BANK 0"), device("ChannelB-DIMM0", "BANK 2")], 2, False, id="Intel-DDR4"),
        pytest.param([device("DIMM_A2"), device("DIMM_B2")], 2, False, id="letters"),
        pytest.param([device("DIMM_A1", "P0_CH_A"), device("DIMM_A2", "P0_CH_A")], 1, False, id="two-in-one-channel"),
        pytest.param([device("DIMM 1"), device("DIMM 2", size="No Module Installed")], 1, False, id="one-module"),
        pytest.param([device(f"DIMM{n}") for n in (1, 2, 3, 4)], 2, True, id="desktop-that-does-not-tell"),
        pytest.param([device(f"Slot {n}") for n in range(8)], None, False, id="server-that-does-not-tell"),
        pytest.param(
            [device("DIMM 0", kind="RAM", speed="Unknown"), device("DIMM 1", kind="RAM", speed="Unknown")], None, False, id="VM"
        ),
    ],
)
def test_spelling(devices: list[str], channels: int | None, inferred: bool) -> None:
    facts = parse_memory(dump(*devices))
    assert (facts.channels, facts.channels_inferred) == (channels, inferred)
    assert facts.channels_reason


def test_soldered_memory_counts_by_its_width() -> None:
    packages = [device(f"Package {n}", kind="LPDDR5").replace("Data Width: 64", "Data Width: 16") for n in range(8)]
    assert parse_memory(dump(*packages)).channels == 2


def test_flash_is_not_main_memory() -> None:
    facts = parse_memory(dump(device("DIMM_A1"), device("SYSTEM ROM", size="16 MB", kind="Flash")))
    assert (len(facts.modules), facts.empty_slots, facts.total_gib) == (1, 0, 16)


def test_windows_line_ends_and_sizes_in_mb() -> None:
    text = dump(device("DIMM_A1", size="16384 MB"), device("DIMM_B1", size="16384 MB"))
    assert parse_memory(text.replace("\n", "\r\n")) == parse_memory(text)
    assert parse_memory(text).total_gib == 32


def test_text_without_memory_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="as root"):
        parse_memory("/sys/firmware/dmi/tables/smbios_entry_point: Permission denied\nCan't read memory from /dev/mem\n")


@given(
    st.lists(
        st.sampled_from(dump(device("DIMM_A1", "P0 CHANNEL A"), device("A1"), device("Controller0-DIMM0")).splitlines()) | st.text()
    )
)
def test_rubbish_is_refused_or_parsed_but_never_crashes(lines: list[str]) -> None:
    try:
        facts = parse_memory("\n".join(lines))
    except ValueError:
        return
    assert facts.channels is None or 1 <= facts.channels <= max(1, len(facts.modules))
