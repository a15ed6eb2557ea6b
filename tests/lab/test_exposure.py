"""Who may reach the server how, and what must not be seen of the secrets for it: API key, certificate, token of a hub."""

import asyncio
import ssl
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment, changed
from fake_hub import huggingface, serving

from bringup.lab.model import demo_model_dir
from bringup.lab.state import lab_dir
from tests.certificates import certificate

pytestmark = pytest.mark.lab
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_api_key_and_tls_guard_the_api_and_show_nowhere(deployment: Deployment, tmp_path: Path) -> None:
    key, tls, page = "sk-lab-0123456789abcdef", certificate(tmp_path), "https://chat.example.org"
    private = tls.key.read_text().splitlines()[1]
    (tmp_path / "key").write_text(f"{key}\n")
    settings = {
        "api_key_file": str(tmp_path / "key"),
        "tls_cert_file": str(tls.cert),
        "tls_key_file": str(tls.key),
        "allowed_origins": [page],
    }
    preview = deployment.dry_run("--diff", "--json", **settings)
    run = deployment.deploy("--diff", "-vv", **settings)
    assert "; api-key none → " in run.stderr
    assert f"PASS  {MODEL}" in run.stderr
    with pytest.raises(OSError, match=r"closed|reset|disconnected"):
        deployment.served_models()  # over plain HTTP
    own = ssl.create_default_context(cafile=str(tls.cert))
    own.check_hostname, own.verify_flags = False, own.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN
    # the certificate has run out, and is the right one all the same
    with pytest.raises(urllib.error.URLError, match="certificate has expired"):
        deployment.get("/v1/models", tls=own)
    own.verify_mode = ssl.CERT_NONE
    with pytest.raises(urllib.error.HTTPError, match="401"):
        deployment.get("/v1/models", tls=own)
    assert deployment.origins(own) == {page: page, "https://evil.example.org": None}
    record = sorted((deployment.reports / "lab1").glob("*.json"))[-1].read_text()
    on_host = deployment.ssh(
        "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; journalctl --no-pager; "
        "grep -r sk-lab- /opt/bringup/releases/*/*.* /etc/systemd /tmp || true"
    )
    for text in (preview.stdout, preview.stderr, run.stdout, run.stderr, record, on_host):
        assert key not in text
        assert private not in text
    rights = deployment.ssh("cd /opt/bringup/current && stat -c '%a %U:%G' secrets api-key").split("\n")
    assert rights[:2] == ["640 root:vllm", "600 root:root"]
    assert set(deployment.ssh("stat -c '%a %U:%G' /etc/bringup/tls/*/*").split("\n")[:2]) == {"640 root:vllm"}
    assert changed(deployment.deploy("--json", **settings)) == []


def test_model_from_a_gated_repository(deployment: Deployment, tmp_path: Path) -> None:
    revision, token = "a" * 40, "hf_0123456789"
    asked: list[str] = []
    (tmp_path / "token").write_text(f"{token}\n")

    async def deploy_with_hub() -> "subprocess.CompletedProcess[str]":
        async with serving(huggingface(demo_model_dir(lab_dir()), MODEL, revision, asked, token=token)) as endpoint:
            source = {"kind": "hub", "hub": "huggingface", "revision": revision, "endpoint": endpoint}
            settings: dict[str, Any] = {"model_source": source, "hub_token_file": str(tmp_path / "token")}
            return await asyncio.to_thread(deployment.deploy, "--diff", "-vv", **settings)

    run = asyncio.run(deploy_with_hub())
    assert f"{MODEL} is complete in /var/lib/bringup/models/HuggingFaceTB--SmolLM2-135M-Instruct@{revision}" in run.stderr
    assert deployment.get("/v1/models")["data"][0]["root"].endswith(f"@{revision}")
    assert asked
    assert token not in run.stdout + run.stderr + deployment.ssh("journalctl --no-pager; cat /opt/bringup/lib/hub-token || true")
