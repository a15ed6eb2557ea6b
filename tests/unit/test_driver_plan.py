"""Which driver a host gets, and what is refused before anything is installed."""

from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.hardware import AptSource, HostFacts
from bringup.plan import make_plan
from bringup.plan.driver import KEYRING, DriverPlan, plan_driver
from bringup.plan.preflight import driver_blockers, plan_blockers
from bringup.probe.host import parse_host
from bringup.recording import recording_named
from bringup.scrub import scrub
from bringup.settings import Settings
from tests.unit.machines import NOW_UNIX_S, bare_workstation, changed, workstation

CATALOG = load_catalog()
REPOSITORY = {"uri": "http://mirror.example/nvidia", "key_file": "/keys/nvidia.asc", "fingerprint": "AB" * 20}
ARCHIVE = REPOSITORY | {"uri": "http://mirror.example/ubuntu", "suite": "noble-updates", "components": ["restricted"]}
SIGNED = "linux-modules-nvidia-580-server-open-"


def with_parts(facts: HostFacts, **parts: dict[str, Any]) -> HostFacts:
    """The same host with some fields of its parts (`os`, `system`, `nvidia`) changed."""
    return changed(facts, **{name: getattr(facts, name).model_copy(update=fields) for name, fields in parts.items()})


def debian(version: str = "12", **system: Any) -> HostFacts:
    return with_parts(
        bare_workstation(),
        os={"id": "debian", "version_id": version, "name": f"Debian {version}", "kernel": "6.1.0-40-amd64"},
        system={"kernel_packages": ("linux-image-amd64",)} | system,
    )


def ubuntu(version: str = "24.04", **system: Any) -> HostFacts:
    return with_parts(bare_workstation(), os={"version_id": version}, system=system)


def installed(version: str = "570.195.03", answers: bool = True, **nvidia: Any) -> HostFacts:
    """The workstation with a driver from Ubuntu's packages."""
    packages = {f"nvidia-driver-{version[:3]}-open": f"{version}-0ubuntu0.24.04.1"}
    facts = workstation(version if answers else None)
    return with_parts(facts, nvidia={"running_version": version, "packages": packages} | nvidia)


def driver(facts: HostFacts, **data: Any) -> DriverPlan | None:
    return make_plan(facts, Settings.model_validate(data), CATALOG, "cdbee75f").driver


def planned(facts: HostFacts, **data: Any) -> DriverPlan:
    plan = driver(facts, **data)
    assert plan is not None
    return plan


SUITES = (
    AptSource(uri="http://mirror.example/debian", suite="bookworm", components=("main",), signed_by="/keys/debian.gpg"),
    AptSource(uri="http://mirror.example/security", suite="bookworm-security", components=("main", "contrib", "non-free")),
)


def blocker(facts: HostFacts, **data: Any) -> str:
    (text,) = driver_blockers(facts, make_plan(facts, Settings.model_validate(data), CATALOG, "cdbee75f"))
    return text


SERVER = ("nvidia-driver-580-server-open", "nvidia-utils-580-server")
COMPUTE = ("libnvidia-compute-580", "nvidia-utils-580", "nvidia-dkms-580-open")
PACKAGES: dict[str, tuple[HostFacts, dict[str, Any], tuple[str, ...], str]] = {
    "ubuntu-22.04-dkms": (
        ubuntu("22.04", secure_boot=False),
        {},
        (*SERVER, "nvidia-dkms-580-server-open", "linux-headers-generic"),
        "linux-headers-",
    ),
    "ubuntu-22.04-hwe-signed": (
        ubuntu("22.04", secure_boot=True, kernel_packages=("linux-image-generic-hwe-22.04",)),
        {},
        (*SERVER, f"{SIGNED}generic-hwe-22.04"),
        SIGNED,
    ),
    "ubuntu-24.04-dkms": (
        ubuntu(secure_boot=False),
        {},
        (*SERVER, "nvidia-dkms-580-server-open", "linux-headers-generic"),
        "linux-headers-",
    ),
    "ubuntu-24.04-hwe-signed": (
        ubuntu(secure_boot=True, kernel_packages=("linux-image-generic-hwe-24.04",)),
        {},
        (*SERVER, f"{SIGNED}generic-hwe-24.04"),
        SIGNED,
    ),
    "ubuntu-24.04-mirror": (
        ubuntu(secure_boot=True),
        {"nvidia_repository": ARCHIVE},
        (*SERVER, f"{SIGNED}generic"),
        SIGNED,
    ),
    "ubuntu-24.04-virtual": (
        ubuntu(secure_boot=True, kernel_packages=("linux-image-virtual", "linux-image-generic")),
        {},
        (*SERVER, f"{SIGNED}generic"),
        SIGNED,
    ),
    "ubuntu-26.04-two-flavours": (
        ubuntu("26.04", secure_boot=True, kernel_packages=("linux-image-generic", "linux-image-aws")),
        {},
        (*SERVER, f"{SIGNED}generic", f"{SIGNED}aws"),
        SIGNED,
    ),
    "ubuntu-nvidias": (
        ubuntu(secure_boot=False),
        {"nvidia_repository": REPOSITORY},
        (*COMPUTE, "linux-headers-generic"),
        "linux-headers-",
    ),
    "ubuntu-nvidias-590": (
        ubuntu(secure_boot=False),
        {"nvidia_repository": REPOSITORY, "nvidia_driver": 590},
        ("libnvidia-compute", "nvidia-utils", "nvidia-dkms-open", "linux-headers-generic"),
        "linux-headers-",
    ),
    "debian-12": (
        debian(),
        {"nvidia_repository": REPOSITORY},
        ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "linux-headers-amd64"),
        "linux-headers-",
    ),
    "debian-13-cloud": (
        debian("13", kernel_packages=("linux-image-cloud-amd64",)),
        {"nvidia_repository": REPOSITORY},
        ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "linux-headers-cloud-amd64"),
        "linux-headers-",
    ),
    "debian-kernel-of-somebody": (
        with_parts(debian(kernel_packages=()), os={"kernel": "6.18.44-custom"}),
        {"nvidia_repository": REPOSITORY},
        ("nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
        "linux-headers-",
    ),
}


@pytest.mark.parametrize(("facts", "data", "packages", "prefix"), PACKAGES.values(), ids=PACKAGES)
def test_packages_of_a_bare_host(facts: HostFacts, data: dict[str, Any], packages: tuple[str, ...], prefix: str) -> None:
    plan = planned(facts, **data)
    assert plan.packages == packages
    assert plan.kernel_package_prefix == prefix
    assert (plan.state, plan.version, plan.modules, plan.blockers) == ("present", None, "open", ())
    assert plan.branch == data.get("nvidia_driver", 580)


def test_ubuntus_own_packages_never_mix_with_nvidias() -> None:
    assert planned(ubuntu(secure_boot=False), nvidia_repository=REPOSITORY).not_from == "Ubuntu"
    assert planned(ubuntu(), nvidia_repository=ARCHIVE).not_from is None
    assert planned(debian(), nvidia_repository=REPOSITORY).not_from is None


def test_signed_modules_are_not_held_but_kernels_are_fenced_with_them() -> None:
    signed, built = planned(ubuntu(secure_boot=True)), planned(ubuntu(secure_boot=False))
    assert (signed.build, signed.hold, "linux-" in signed.fence) == ("signed", False, True)
    assert (built.build, built.hold, "linux-" in built.fence) == ("dkms", True, False)


def test_ubuntu_needs_no_repository_and_takes_a_mirror() -> None:
    assert planned(ubuntu()).repository is None
    mirror = planned(ubuntu(), nvidia_repository=REPOSITORY).repository
    assert mirror is not None
    assert (mirror.uri, mirror.suite, mirror.components) == ("http://mirror.example/nvidia", "/", ())


LEFT_ALONE = {
    "new-enough": (workstation("580.95.05"), {}),
    "newer": (workstation("590.44.01"), {}),
    "as-pinned": (workstation("580.95.05"), {"nvidia_driver": "580"}),
    "exactly-as-pinned": (workstation("580.95.05"), {"nvidia_driver": "580.95.05"}),
    "run-file-that-works": (with_parts(workstation(), nvidia={"run_file": "/usr/bin/nvidia-uninstall"}), {}),
    "container-whose-machine-has-it": (with_parts(workstation(), system={"container": "docker"}), {}),
    "nothing-of-ours-to-remove": (workstation(), {"nvidia_state": "absent"}),
}


@pytest.mark.parametrize(("facts", "data"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_driver_that_is_left_alone(facts: HostFacts, data: dict[str, Any]) -> None:
    assert driver(facts, **data) is None
    assert driver_blockers(facts, make_plan(facts, Settings.model_validate(data), CATALOG, "cdbee75f")) == []


REPLACED = {
    "too-old": (installed("570.195.03"), {}, 580, None),
    "pinned-to-a-newer-branch": (installed("580.95.05"), {"nvidia_driver": "590"}, 590, None),
    "pinned-to-a-number": (installed("580.95.05"), {"nvidia_driver": 590}, 590, None),
    "pinned-to-another-version": (installed("580.95.05"), {"nvidia_driver": "580.105.08"}, 580, "580.105.08"),
    # 580.9 is no beginning of 580.95.05
    "pinned-to-a-version-that-looks-alike": (installed("580.95.05"), {"nvidia_driver": "580.9"}, 580, "580.9"),
    "ours-is-kept-up": (installed("580.95.05", managed=True), {}, 580, None),
    "ours-back-to-the-least-branch": (installed("590.44.01", managed=True), {}, 580, None),
    "ours-that-does-not-answer": (
        changed(installed("580.95.05", managed=True), unknown={"nvidia-smi": "Driver/library version mismatch"}),
        {},
        580,
        None,
    ),
}


@pytest.mark.parametrize(("facts", "data", "branch", "version"), REPLACED.values(), ids=REPLACED)
def test_driver_that_is_installed_or_replaced(facts: HostFacts, data: dict[str, Any], branch: int, version: str | None) -> None:
    plan = planned(facts, **data)
    assert (plan.branch, plan.version, plan.blockers) == (branch, version, ())


@pytest.mark.parametrize(
    ("version", "met"),
    [("580.95.05", True), ("580.105.08", True), ("590.44.01", False), ("58.0", False), ("5800.1", False)],
)
def test_what_meets_a_branch(version: str, met: bool) -> None:
    assert planned(ubuntu()).is_met_by(version) is met


def test_what_meets_an_exact_version() -> None:
    plan = planned(ubuntu(), nvidia_driver="580.95.05")
    assert [plan.is_met_by(version) for version in ("580.95.05", "580.95.050", "580.105.08")] == [True, False, False]


DEBIANS_OWN = {
    "12-pinned": ("12", {"nvidia_driver": "535"}, 535, None),
    "13-pinned": ("13", {"nvidia_driver": 550}, 550, None),
    "12-exact-version": ("12", {"nvidia_driver": "535.261.03"}, 535, "535.261.03"),
}


@pytest.mark.parametrize(("release", "data", "branch", "version"), DEBIANS_OWN.values(), ids=DEBIANS_OWN)
def test_debians_own_driver_where_its_branch_is_asked_for(
    release: str, data: dict[str, Any], branch: int, version: str | None
) -> None:
    facts = debian(release, distribution_sources=SUITES)
    plan = planned(facts, **data)
    assert (plan.branch, plan.version, plan.modules, plan.blockers) == (branch, version, "proprietary", ())
    assert plan.packages == ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "linux-headers-amd64")
    assert {"libcuda1", "nvidia-"} < set(plan.fence)
    assert [(source.suite, source.components, source.signed_by) for source in plan.sources] == [
        ("bookworm", ("contrib", "non-free", "non-free-firmware"), "/keys/debian.gpg"),
        ("bookworm-security", ("non-free-firmware",), ""),
    ]


def test_debians_own_driver_where_it_is_enough_for_the_engine() -> None:
    facts = debian(distribution_sources=SUITES)
    (gpu,) = facts.gpus
    card = CATALOG.gpu(gpu.pci_id)
    assert card is not None
    plan = plan_driver(facts, Settings(), gpu, card, least_branch=535)
    assert plan is not None
    assert (plan.branch, plan.packages[0], plan.below_need, plan.blockers) == (535, "nvidia-kernel-dkms", None, ())


def test_nothing_is_enabled_that_the_host_has_already() -> None:
    every = tuple(s.model_copy(update={"components": ("main", "contrib", "non-free", "non-free-firmware")}) for s in SUITES)
    assert planned(debian(distribution_sources=every), nvidia_driver="535").sources == ()


def test_nvidia_repository_comes_before_debians_own() -> None:
    plan = planned(debian(distribution_sources=SUITES), nvidia_driver="535", nvidia_repository=REPOSITORY)
    assert plan.packages[0] == "nvidia-driver-cuda"
    assert [(source.uri, source.signed_by) for source in plan.sources] == [(REPOSITORY["uri"], KEYRING)]


def test_driver_below_the_engines_need_is_refused_with_the_engine_and_told_without() -> None:
    facts = debian(distribution_sources=SUITES)
    plan = make_plan(facts, Settings(nvidia_driver="535"), CATALOG, "cdbee75f")
    assert driver_blockers(facts, plan) == []
    assert plan.driver is not None
    said = plan.driver.below_need or ""
    assert "asks for branch 535, but branch 580 or newer is needed for the engine: name a newer one" in said
    assert said in plan_blockers(facts, plan)


BLOCKED: dict[str, tuple[HostFacts, dict[str, Any], tuple[str, ...]]] = {
    "pin-that-debian-has-not": (debian(distribution_sources=SUITES), {"nvidia_driver": "550"}, ("branch 550", "nvidia_repository")),
    "debian-whose-sources-are-not-known": (
        debian(distribution_sources=()),
        {"nvidia_driver": "535"},
        ("contrib, non-free, non-free-firmware", "enable these components yourself"),
    ),
    "container": (ubuntu(container="docker"), {}, ("container (docker)", "owner must install", "branch 580 or newer")),
    "no-apt": (ubuntu(package_holds=None), {}, ("apt", "by hand")),
    "run-file": (
        with_parts(installed("570.195.03"), nvidia={"run_file": "/usr/bin/nvidia-uninstall"}),
        {},
        (".run installer (/usr/bin/nvidia-uninstall)", "run `nvidia-uninstall`", "570.195.03"),
    ),
    "unknown-origin": (workstation("570.195.03"), {}, ("570.195.03", "not installed from packages", "branch 580 or newer")),
    "secure-boot-on-debian": (
        debian(secure_boot=True),
        {"nvidia_repository": REPOSITORY},
        ("Secure Boot is on", "mokutil --import", "firmware", "Ubuntu"),
    ),
    "secure-boot-with-nvidias-repository": (
        ubuntu(secure_boot=True),
        {"nvidia_repository": REPOSITORY},
        ("Secure Boot is on", "leave nvidia_repository out"),
    ),
    "secure-boot-with-a-kernel-of-somebody": (
        with_parts(ubuntu(secure_boot=True), os={"kernel": "6.18.44-custom"}),
        {},
        ("6.18.44-custom", "signed modules"),
    ),
    "debian-without-repository": (debian(), {}, ("branch 580", "set nvidia_repository", "fingerprint")),
    "not-ours-and-silent": (
        changed(installed(answers=False), unknown={"nvidia-smi": "couldn't communicate with the NVIDIA driver"}),
        {},
        ("does not answer: couldn't communicate", "reboot", "nvidia_driver: '580'"),
    ),
    "removed-while-it-serves": (
        changed(installed("580.95.05", managed=True), service_state="active"),
        {"nvidia_state": "absent"},
        ("systemctl disable --now vllm.service",),
    ),
}


@pytest.mark.parametrize(("facts", "data", "said"), BLOCKED.values(), ids=BLOCKED)
def test_what_is_refused_with_the_way_out(facts: HostFacts, data: dict[str, Any], said: tuple[str, ...]) -> None:
    text = blocker(facts, **data)
    for part in said:
        assert part in text


def test_absent_takes_ours_away() -> None:
    plan = planned(installed("580.95.05", managed=True), nvidia_state="absent", boot_wait_s=60, reboot="never")
    assert (plan.state, plan.packages, plan.blockers) == ("absent", (), ())
    assert (plan.boot_wait_s, plan.reboot) == (60, "never")


def test_host_without_a_card_gets_no_driver() -> None:
    settings = Settings(profile="cpu-demo", model="smollm2-135m")
    assert make_plan(changed(bare_workstation(), gpus=()), settings, CATALOG, "x").driver is None


def test_record_of_the_release_is_the_same_before_and_after_the_driver() -> None:
    plan = make_plan(ubuntu(), Settings(), CATALOG, "cdbee75f")
    assert plan.record() == plan.model_copy(update={"driver": None}).record()


# --- what the probe tells


def probe(*changes: tuple[str, str]) -> HostFacts:
    text = recording_named("4090d-workstation").probe_text(NOW_UNIX_S)
    for section, body in changes:
        before, _, after = text.partition(f"@@bringup {section}\n")
        text = f"{before}@@bringup {section}\n{body}\n@@bringup {after.partition('@@bringup ')[2]}"
    return parse_host(text)


def test_probe_tells_kernels_packages_and_origin() -> None:
    recorded = recording_named("4090d-workstation").probe_text(NOW_UNIX_S)
    origin = "run_file=/usr/bin/nvidia-uninstall\nmanaged=yes\nstale_initrd=/boot/initrd.img-6.8.0-88-generic\n"
    facts = parse_host(recorded.replace("@@bringup end", f"@@bringup driver-origin\n{origin}@@bringup end"))
    assert facts.nvidia.run_file == "/usr/bin/nvidia-uninstall"
    assert facts.nvidia.managed
    assert facts.nvidia.stale_initrds == ("/boot/initrd.img-6.8.0-88-generic",)
    packages = "\n".join(
        (
            "ii |linux-image-generic-hwe-24.04|6.14.0-36.36",
            "ii |linux-image-6.14.0-36-generic|6.14.0-36.36",
            "iF |nvidia-dkms-580-server-open|580.95.05",
            "iU |other|1",
            "rc |linux-image-aws|1",
        )
    )
    facts = probe(("packages", packages))
    assert facts.system.kernel_packages == ("linux-image-generic-hwe-24.04",)
    assert facts.system.broken_packages == ("nvidia-dkms-580-server-open", "other")
    kernels = "kernel=6.8.0-88-generic module= version= headers=yes\nkernel=6.8.0-90-generic module= version= headers=no"
    facts = probe(("kernels", kernels))
    assert [module.headers for module in facts.nvidia.modules] == [True, False]


SOURCES = """\
Debian|http://mirror.example/debian/|bookworm|contrib|/etc/apt/sources.list.d/bringup-nvidia.sources|/k.gpg
Debian|http://mirror.example/debian/|bookworm|main|/etc/apt/sources.list.d/debian.sources|/k.gpg
Debian|http://mirror.example/debian/|bookworm|non-free|/etc/apt/sources.list.d/debian.sources|/k.gpg
Debian Backports|http://mirror.example/debian/|bookworm-backports|main|/etc/apt/sources.list.d/debian.sources|/k.gpg
HashiCorp|http://other.example/|bookworm|main|/etc/apt/sources.list.d/other.list|/other.gpg
Debian|http://mirror.example/embedded/|bookworm|main|/etc/apt/sources.list.d/e.sources|embedded
"""
NO_LISTS = """\
$(ORIGIN)|http://mirror.example/debian/|bookworm|main|/etc/apt/sources.list|
$(ORIGIN)|http://mirror.example/debian/|bookworm-backports|main|/etc/apt/sources.list|
$(ORIGIN)|http://other.example/|bookworm|main|/etc/apt/sources.list.d/other.list|/other.gpg
"""


@pytest.mark.parametrize(
    ("text", "components", "signed_by"),
    [(SOURCES, ("main", "non-free"), "/k.gpg"), (NO_LISTS, ("main",), "")],
    ids=["lists", "no-lists"],
)
def test_probe_tells_debians_suites_from_others(text: str, components: tuple[str, ...], signed_by: str) -> None:
    recorded = recording_named("4090d-workstation").probe_text(NOW_UNIX_S)
    facts = parse_host(recorded.replace("@@bringup end", f"@@bringup apt-sources\n{text}@@bringup end"))
    expected = AptSource(uri="http://mirror.example/debian", suite="bookworm", components=components, signed_by=signed_by)
    assert facts.system.distribution_sources == (expected,)


def test_mirrors_of_a_recorded_host_have_no_names() -> None:
    scrubbed = scrub({"apt-sources": SOURCES})["apt-sources"]
    assert ".example/debian/" in scrubbed
    assert "mirror.example" not in scrubbed
    assert "other.example" not in scrubbed
