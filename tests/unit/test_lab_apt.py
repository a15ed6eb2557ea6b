"""The machine's apt settings, read for a host."""

from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.lab import apt

# recorded form, other addresses; the third-party repository uses the distribution's codename as many do
TARGETS = """\
https://tools.example/apt/|bookworm|main|Tools Inc.
http://mirror.example/debian/|bookworm|main|Debian
http://mirror.example/debian/|bookworm|contrib|Debian
http://mirror.example/debian/|bookworm-updates|main|Debian
http://mirror.example/debian-security/|bookworm-security|main|Debian
file:/srv/my%20packages/|./||Us
W: some warning
"""
DUMP = """\
APT "";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::http::Proxy-Auto-Detect "/usr/local/bin/find-proxy";
Acquire::http::Proxy::mirror.example "DIRECT";
Acquire::https::CaInfo "/etc/ours/ca.crt";
Acquire::Check-Valid-Until "false";
Acquire::Languages:: "none";
Acquire::GzipIndexes "true";
Acquire::Changelogs::URI::Origin::Debian "https://changes.example/";
APT::Install-Recommends "0";
"""


def test_the_distributions_own_release_is_chosen_with_its_components() -> None:
    repository = apt.choose_repository(apt.parse_index_targets(TARGETS), "bookworm", "debian")
    assert repository == apt.Repository("http://mirror.example/debian/", "bookworm", ("main", "contrib"))


@pytest.mark.parametrize(("targets", "codename"), [(TARGETS, "trixie"), ("", "bookworm")])
def test_without_package_lists_the_way_out_is_named(targets: str, codename: str) -> None:
    with pytest.raises(BringupError, match="apt-get update"):
        apt.choose_repository(apt.parse_index_targets(targets), codename, "debian")


def test_a_host_gets_how_to_reach_mirrors_and_nothing_else() -> None:
    assert apt.host_settings(DUMP) == {
        "Acquire::http::Proxy": "http://proxy.example:3128",
        "Acquire::http::Proxy::mirror.example": "DIRECT",
        "Acquire::https::CaInfo": "/etc/ours/ca.crt",
        "Acquire::Check-Valid-Until": "false",
    }


def test_local_repositories_and_certificates_are_found() -> None:
    paths = apt.local_paths(apt.parse_index_targets(TARGETS), apt.host_settings(DUMP))
    assert paths == (Path("/srv/my packages/"), Path("/etc/ours/ca.crt"))


def test_debootstrap_gets_the_proxy_but_not_the_word_for_none() -> None:
    assert apt.proxy_environment(apt.host_settings(DUMP)) == {"http_proxy": "http://proxy.example:3128"}
    assert apt.proxy_environment({"acquire::HTTP::proxy": "DIRECT"}) == {}


def test_a_host_of_another_release_gets_the_distributions_own_suites_of_it() -> None:
    sources = apt.sources_of(apt.parse_index_targets(TARGETS), "bookworm", "debian", "trixie")
    assert sources.splitlines() == [
        "deb http://mirror.example/debian/ trixie main contrib",
        "deb http://mirror.example/debian/ trixie-updates main",
        "deb http://mirror.example/debian-security/ trixie-security main",
    ]
