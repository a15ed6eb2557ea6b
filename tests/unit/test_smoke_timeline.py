"""The columns of what was sampled."""

import pytest
from pydantic import ValidationError

from bringup.smoke.timeline import Series, Timeline, throttle_reasons


def timeline() -> Timeline:
    busy = [Series(name="core_busy_percent", unit="%", of=cpu, values=(1.0, None, 3.0, 4.0)) for cpu in ("0", "1")]
    return Timeline(
        interval_s=0.2, at_s=(0.0, 0.2, 0.4, 0.6), series=(*busy, Series(name="power_w", unit="W", values=(5, 6, 7, 8)))
    )


def test_series_are_found_by_name_and_by_what_they_belong_to() -> None:
    sampled = timeline()
    assert [series.of for series in sampled.all("core_busy_percent")] == ["0", "1"]
    assert sampled.one("core_busy_percent", "1") == sampled.series[1]
    assert sampled.one("core_busy_percent", "7") is None
    assert sampled.one("temperature_c") is None


def test_a_part_keeps_the_moments_and_every_series() -> None:
    part = timeline().between(0.2, 0.4)
    assert part.at_s == (0.2, 0.4)
    assert [series.values for series in part.series] == [(None, 3.0), (None, 3.0), (6, 7)]
    assert timeline().between(5, 9).at_s == ()


def test_an_uneven_column_is_refused() -> None:
    with pytest.raises(ValidationError, match="2 values for 1 moments"):
        Timeline(interval_s=0.2, at_s=(0.0,), series=(Series(name="power_w", unit="W", values=(5, 6)),))


@pytest.mark.parametrize(("bits", "names"), [(0, ()), (0x44, ("sw_power_cap", "hw_thermal_slowdown")), (0x1000, ("0x1000",))])
def test_throttle_reasons_are_named(bits: int, names: tuple[str, ...]) -> None:
    assert throttle_reasons(bits) == names
