"""What a throw-away host has beyond the base: its name, its sshd, and this machine's ways to packages."""

import hashlib
import os
import platform
import re
from pathlib import Path

from bringup import pip_settings
from bringup.lab import apt
from bringup.lab.commands import run
from bringup.lab.state import LabHost

_BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
_LOCAL_CERTIFICATES = Path("usr/local/share/ca-certificates")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
START_COMMAND = Path("/usr/local/sbin/start-container")
"""Of hosts without systemd."""
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def configure(host: LabHost, host_key: Path, user_key: str, release: str | None = None) -> None:
    """Write what makes the fresh root file system of `host` this host.

    `host_key` is the private key of its sshd, `user_key` the public key that root accepts, `release` the codename of its
    distribution's release where that is not this machine's.
    """
    root = host.root
    (root / "root/.ssh").mkdir(mode=0o700, parents=True, exist_ok=True)
    apt_settings = apt.machine_apt_settings()
    apt.copy_configuration(root, apt_settings, None if release is None else _sources(release))
    for path, text in host_files(host, user_key, dict(os.environ)).items():
        (root / path).write_text(text)
    if pip_conf := pip_settings.pip_conf(pip_settings.machine_pip_settings()):
        (root / "etc/pip.conf").write_text(pip_conf)
    sshd_key = root / "etc/ssh/ssh_host_ed25519_key"
    sshd_key.touch(mode=0o600)
    sshd_key.write_bytes(host_key.read_bytes())
    # First boot enables all presets, and with them ssh.socket on port 22 of every address of this machine.
    # Neither may a host set up this machine's network, which it shares.
    for unit in ("ssh.socket", "systemd-networkd.service", "systemd-networkd.socket"):
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    trust_what_the_machine_trusts(root)


def take_systemd_away(root: Path) -> None:
    """Make the root file system one of a container image as they are rented: a start command, sshd, and no systemd."""
    for name in ("systemctl", "journalctl", "systemd-detect-virt", "systemd-run", "timedatectl"):
        (root / "usr/bin" / name).unlink(missing_ok=True)
    (root / ".dockerenv").touch()
    start = root / START_COMMAND.relative_to("/")
    start.write_text(
        "#!/bin/sh\n# the image's start command\nmkdir -p /run/sshd\n[ ! -e /root/onstart.sh ] || sh /root/onstart.sh\n"
        "exec /usr/sbin/sshd -D\n"
    )
    start.chmod(0o755)


def _sources(release: str) -> str:
    machine = platform.freedesktop_os_release()
    return apt.sources_of(apt.machine_index_targets(), machine.get("VERSION_CODENAME", ""), machine["ID"], release)


def host_files(host: LabHost, user_key: str, environment: dict[str, str]) -> dict[str, str]:
    """The small text files of a host, path below its root to content."""
    proxies = {name: environment[name] for name in _PROXY_VARIABLES if environment.get(name)}
    return {
        "etc/hostname": f"{host.name}\n",
        "etc/hosts": f"127.0.0.1 localhost {host.name}\n::1 localhost\n",
        # read by PAM for every SSH session
        "etc/environment": "".join(f"{name}={value}\n" for name, value in proxies.items()),
        "etc/ssh/sshd_config.d/lab.conf": (
            f"Port {host.ssh_port}\n"
            "ListenAddress 127.0.0.1\n"
            "HostKey /etc/ssh/ssh_host_ed25519_key\n"
            "PermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\n"
        ),
        "root/.ssh/authorized_keys": f"{user_key}\n",
    }


def shared_paths() -> tuple[Path, ...]:
    """What of this machine a host sees, read-only and at the same path: local package folders and the files named there.

    System certificates are not among them: a host has its own.
    """
    paths = [
        *apt.local_paths(apt.machine_index_targets(), apt.machine_apt_settings()),
        *pip_settings.local_paths(pip_settings.machine_pip_settings()),
    ]
    return tuple(
        path for path in dict.fromkeys(paths) if path.exists() and not path.is_relative_to("/etc/ssl") and path != Path("/")
    )


def certificates(bundle: str) -> set[str]:
    """The PEM certificates in a text."""
    return set(_CERTIFICATE.findall(bundle))


def trust_what_the_machine_trusts(root: Path) -> None:
    """Add to the host's certificates those that only this machine has, whether installed or put into its bundle by hand."""
    trusted: set[str] = set()
    for path in (Path("/") / _BUNDLE, *(Path("/") / _LOCAL_CERTIFICATES).rglob("*.crt")):
        if path.is_file():
            trusted |= certificates(path.read_text(errors="replace"))
    extra = trusted - certificates((root / _BUNDLE).read_text())
    if not extra:
        return
    folder = root / _LOCAL_CERTIFICATES
    folder.mkdir(parents=True, exist_ok=True)
    for certificate in extra:
        digest = hashlib.sha256(certificate.encode()).hexdigest()[:12]
        (folder / f"machine-{digest}.crt").write_text(f"{certificate}\n")
    run("chroot", root, "update-ca-certificates", failure="The host's certificates could not be brought up to date:")


def make_key(path: Path, comment: str) -> str:
    """Make an SSH key pair at `path` unless it is there; return the public key (type and key, no comment)."""
    public = path.with_name(f"{path.name}.pub")
    if not (path.is_file() and public.is_file()):
        path.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)
        run(*command, failure=f"ssh-keygen could not make {path}:")
    return " ".join(public.read_text().split()[:2])
