"""An image with the engine's CPU build, as somebody's registry would have it: Debian 12 and the pinned list of the catalog."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from bringup.catalog import load_catalog
from bringup.catalog.loader import engine_checksum, engine_requirements
from bringup.lab import apt, container, guest
from bringup.lab.base import ensure_base
from bringup.lab.commands import run, step
from bringup.lab.machine import overlay_options, require_space
from bringup.lab.state import base_dir, locked
from bringup.pip_settings import machine_pip_settings, pip_conf
from deploys.bundle import host_bundle

ENGINE = "/opt/engine"
_MIB = 8 * 1024


def ensure_engine_image(directory: Path, console: Console) -> Path:
    """A tar file with the image's root file system in the lab's folder, made now if there is none (some minutes)."""
    engine = load_catalog().engine(None, "cpu")
    image = directory / f"images/{engine.name}-{engine_checksum(engine)[:8]}.tar"
    if image.exists():
        return image
    base = ensure_base(base_dir(directory), console)
    with locked(directory, "image.lock"), step(console, f"Making an image with {engine.name}"):
        require_space(directory, _MIB, "an image with the engine")
        image.parent.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=image.parent, prefix=".build-"))
        try:
            root = folder / "root"
            for name in ("upper", "work", "root"):
                (folder / name).mkdir()
            options = overlay_options(base, folder / "upper", folder / "work")
            run("mount", "-t", "overlay", "overlay", "-o", options, root, failure="the image's root could not be mounted:")
            apt.copy_configuration(root, apt.machine_apt_settings())
            guest.trust_what_the_machine_trusts(root)
            (root / "etc/pip.conf").write_text(pip_conf(machine_pip_settings()) or "")
            (root / "root/bringup.zip").write_bytes(host_bundle())
            (root / "root/list.txt").write_text(engine_requirements(engine))
            request = {"target": ENGINE, "requirements": "/root/list.txt", "checksum": "image", "index_url": None}
            request |= {"extra_index_urls": [], "find_links": [], "torch_backend": "cpu", "torch_backend_is_set": False}
            (root / "root/request.json").write_text(json.dumps(request))
            packages = "python3 python3-venv ca-certificates " + " ".join(engine.apt_packages)
            cache = directory / "cache/uv"
            cache.mkdir(parents=True, exist_ok=True)
            script = (
                f"apt-get update -q && apt-get install -yq --no-install-recommends {packages} && "
                "PYTHONPATH=/root/bringup.zip python3 -m bringup.onhost build /root/request.json && "
                "apt-get clean && rm -rf /root/* /opt/bringup /var/lib/apt/lists /usr/share/doc /usr/share/locale"
            )
            command = ["systemd-nspawn", "--quiet", "--settings=no", "-D", str(root), "--register=no", "--keep-unit", "--pipe"]
            command += ["--resolv-conf=replace-host", f"--bind={cache}:/root/.cache/uv"]
            command += [f"--bind-ro={path}" for path in guest.shared_paths()]
            done = subprocess.run([*command, "sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            partial = folder / "image.tar"
            run("tar", "-C", root, "-cf", partial, ".", failure="the image could not be packed:")
            partial.rename(image)
        finally:
            container.remove_folder(folder)
            shutil.rmtree(folder, ignore_errors=True)
    return image
