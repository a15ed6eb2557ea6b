"""Secrets on the control machine: what cannot be used is refused before any host is touched, and never shown."""

from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.settings import Settings
from deploys.secrets import read_hub_token, read_tls
from tests.certificates import certificate


def test_certificate_names_its_folder_and_its_key_is_not_shown(tmp_path: Path) -> None:
    mine, other = certificate(tmp_path / "mine"), certificate(tmp_path / "other")
    read = [read_tls(str(made.cert), str(made.key)) for made in (mine, other)]
    assert read[0] is not None
    assert read[1] is not None
    assert len({tls.name for tls in read if tls}) == 2
    assert read[0].sha256.startswith(read[0].name)
    assert "PRIVATE" not in repr(read[0])
    assert read_tls(None, None) is None


def test_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    mine, other = certificate(tmp_path / "mine"), certificate(tmp_path / "other")
    for cert, key in ((mine.cert, other.key), (mine.key, mine.key), (mine.cert, tmp_path / "none.pem")):
        with pytest.raises(BringupError, match=r"tls_cert_file .* cannot be used: .*; the key must be the certificate's"):
            read_tls(str(cert), str(key))


def test_hub_token_is_one_word(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hf_0123\n")
    assert read_hub_token(Settings(hub_token_file=str(file))) == "hf_0123"
    assert read_hub_token(Settings()) is None
    for content in ("", "hf_1\nhf_2", "hf 1"):
        file.write_text(content)
        with pytest.raises(BringupError, match="must hold one token on one line") as refused:
            read_hub_token(Settings(hub_token_file=str(file)))
        assert "hf" not in refused.value.message.replace(str(file), "")
