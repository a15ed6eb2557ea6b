"""The machine's pip settings, read and handed on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bringup.pip_settings import PipSettings, local_paths, parse_pip_config, pip_conf, uv_environment

# recorded: pip 23.2 on a machine with package folders of its own
RECORDED = """\
:env:.cert='/etc/ssl/certs/ca-certificates.crt'
:env:.default-timeout='180'
:env:.disable-pip-version-check='1'
:env:.find-links='/opt/wheels'
global.cert='/etc/ssl/other.crt'
global.constraint='/etc/xdg/pip/constraints.txt'
global.extra-index-url='file:///opt/pypi/simple file:///opt/pypi-more/simple'
global.find-links='/opt/old-wheels'
"""
EVERYTHING = PipSettings(
    index_url="https://mirror.example/simple",
    extra_index_urls=("file:///opt/a/simple", "https://b.example/simple"),
    find_links=("/opt/wheels", "file:///opt/my%20wheels"),
    trusted_hosts=("mirror.example",),
    constraint=("/etc/constraints.txt",),
    cert="/etc/ssl/certs/ca-certificates.crt",
    proxy="http://proxy.example:3128",
)


def test_recorded_listing() -> None:
    assert parse_pip_config(RECORDED) == PipSettings(
        extra_index_urls=("file:///opt/pypi/simple", "file:///opt/pypi-more/simple"),
        find_links=("/opt/wheels",),
        constraint=("/etc/xdg/pip/constraints.txt",),
        cert="/etc/ssl/certs/ca-certificates.crt",
    )


def test_section_of_install_beats_global_wherever_it_stands() -> None:
    listing = "install.index-url='https://install.example'\nglobal.index-url='https://global.example'\n"
    assert parse_pip_config(listing).index_url == "https://install.example"


def test_values_on_several_lines() -> None:
    assert parse_pip_config(r"global.find-links='\n/opt/a\n/opt/b'").find_links == ("/opt/a", "/opt/b")


def test_other_sections_and_noise_are_passed_over() -> None:
    assert parse_pip_config("WARNING: something\nfreeze.find-links='/opt/x'\n\n") == PipSettings()


def test_unquoted_value_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="find-links"):
        parse_pip_config("global.find-links=/opt/wheels")


def test_pip_itself_reads_the_written_file_as_the_same_settings(tmp_path: Path) -> None:
    conf = tmp_path / "pip.conf"
    conf.write_text(pip_conf(EVERYTHING))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env=environment | {"PIP_CONFIG_FILE": str(conf)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_pip_config(listing.stdout) == EVERYTHING


def test_nothing_set_writes_no_pip_conf() -> None:
    assert pip_conf(PipSettings()) == ""


def test_uv_gets_every_setting_in_its_own_list_syntax() -> None:
    assert uv_environment(EVERYTHING) == {
        "UV_INDEX_URL": "https://mirror.example/simple",
        "UV_EXTRA_INDEX_URL": "file:///opt/a/simple https://b.example/simple",
        "UV_FIND_LINKS": "/opt/wheels,file:///opt/my%20wheels",
        "UV_INSECURE_HOST": "mirror.example",
        "UV_CONSTRAINT": "/etc/constraints.txt",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        "HTTP_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "UV_SYSTEM_CERTS": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_uv_gets_no_empty_variables() -> None:
    assert set(uv_environment(PipSettings())) == {"UV_SYSTEM_CERTS", "UV_INDEX_STRATEGY"}


def test_local_paths_hold_the_wheels_beside_an_index_and_no_remote_address() -> None:
    assert [str(path) for path in local_paths(EVERYTHING)] == [
        "/opt/a",
        "/opt/wheels",
        "/opt/my wheels",
        "/etc/constraints.txt",
        "/etc/ssl/certs/ca-certificates.crt",
    ]
