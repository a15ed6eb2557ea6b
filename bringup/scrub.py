"""Takes out of the probe's output what tells one machine or person from another, and leaves what a plan is made from.

Each rule belongs to a form of identifier, not to a field of the facts, so that a field that the probe reads later is covered too.
Equal identifiers get equal placeholders and different ones different placeholders: two folders on one disk stay on one disk.
Scrubbing twice changes nothing more.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

SCRUBBED = "scrubbed"
"""What stands for an identifier whose form does not matter."""

# bringup's own sections: checksums and revisions look like identifiers there, and are what the parsers compare
_OWN = frozenset({"engines", "models", "release", "smoke"})
# versions of four numbers look like IPv4 addresses (9.10.2.21-1, 5.15.167.4-microsoft-standard-WSL2)
_VERSIONS = frozenset({"os-release", "uname", "board", "packages", "kernels", "dkms", "cuda", "nvidia-module"})
_SHARED_USERS = frozenset({"root", "vllm"})
"""Users that every host of ours has; their names tell nothing."""

_UUID = re.compile(r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})\b", re.I)
_DISK_UUID = re.compile(rf"(?:PART)?UUID=(?:{_UUID.pattern})", re.I)
# Ethernet has 6 bytes, EUI-64 has 8, InfiniBand has 20
_MAC = re.compile(r"(?<![0-9a-f:-])[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4,18}(?![0-9a-f:-])", re.I)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f]*:[0-9a-f]*:)[0-9a-f:]{3,}(?![\w:])", re.I)
# the ranges for documentation (RFC 5737, RFC 3849)
_DOCUMENTATION = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
# who built a kernel module, and where; NVIDIA's own build hosts stand in everybody's
_AT_HOST = re.compile(r"(?<![\w.+-])(?!dvs-builder@)[\w.+-]+@[\w.-]*")
_LABELLED = re.compile(r"\b(serial number|serial|asset tag|uuid|guid|board id|[gb]\w+ part number)([ \t]*:[ \t]*)(\S[^\n]*)", re.I)
_ELEMENT = re.compile(r"<(\w*(?:serial|uuid|guid|pdi|board_id|host_id|part_number|asset)\w*)>([^<]*)</\1>", re.I)
_NOTHING = frozenset({"", "0", "N/A", "[N/A]", "None", "Unknown", "Not Specified", "Not Found", "[Not Found]"})
_PROCESS = re.compile(r"<process_name>([^<]*)</process_name>")
# a person's folder, wherever it is mounted, and what lies below
_HOME = re.compile(r"(?:(?<![\w.+/-])(?:/[\w.+-]+)*?)?/(?:home|Users|media)/([^/\s:;,|\"'<>]+)(/[^\s:;,|\"'<>]*)?")
_OWN_FOLDERS = ("/opt/bringup/", "/var/lib/bringup/")
_DEVICE = re.compile(r"/dev/[^\s,;:\"'=]+(?::[^\s,;:\"'=]+)?")
# the kernel's own numbering; everything else (volume groups, labels, serial numbers in by-id) was named by somebody
_PLAIN_DEVICE = re.compile(
    r"/dev/(?:root|tty\w*|(?:sd|vd|xvd|hd)[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|(?:mmcblk|md|nbd)\d+(?:p\d+)?|(?:dm-|zram|loop|pmem)\d+)"
)
_PLAIN_FILE_SYSTEM = frozenset({"overlay", "fuse-overlayfs", "tmpfs", "devtmpfs", "rootfs", "none", "shm", "udev", "drivers"})
# kernel parameters whose values name a disk, a network, a host or a user
_NAMING_PARAMETER = re.compile(
    r"(?:root|resume|swap|init|initrd|ip|bootif|ds|boot|bootfs|zfs|ostree|ks|bond|team|bridge|vlan|ifname|nameserver|net\w*"
    r"|rd\.(?!driver\.).*|.*(?:luks|crypt|host|machine[._-]id|url|uuid|label|serial|user|passw|token|secret|domain|nfs|iscsi|wwn)"
    r".*|cloud-config.*|autoinstall.*|preseed.*|inst\..*|live\w*|coreos\..*|ignition\..*|fai_.*)",
    re.I,
)


class _Placeholders:
    """Numbers the identifiers of each form in the order in which they appear."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, form: str, identifier: str) -> int:
        of_form = sum(1 for known, _ in self._numbers if known == form)
        return self._numbers.setdefault((form, identifier.lower()), of_form + 1)


def scrub(sections: Mapping[str, str]) -> dict[str, str]:
    """Replace what identifies a machine or a person by placeholders that parse as the original does.

    Taken out: serial numbers, UUIDs (those of cards too), asset tags, board ids, MAC and IP addresses, host names, user names
    except root and vllm and what lies in their folders, names of volumes and encrypted disks, whatever kernel parameters say of
    disks and networks, arguments of processes; of a served release and of a smoke record everything that the facts do not hold.
    """
    names = _Placeholders()
    rules: dict[str, Callable[[str, _Placeholders], str]] = {
        "identity": _identity,
        "kernel-command-line": _kernel_command_line,
        "disk": _disks,
        "swaps": _devices,
        "kernel-log": lambda body, _: re.sub(r"\bname=[^,\s]+", f"name={SCRUBBED}", body),
        "service-user": _service_user,
        "apt-sources": lambda body, names: re.sub(
            r"://([^/|]+)", lambda m: f"://mirror{names.number('mirror', m[1])}.example", body
        ),
        "release": lambda body, _: _release(body),
        "smoke": lambda body, _: _smoke(body),
    }
    scrubbed = {}
    for section, body in sections.items():
        text = rules[section](body, names) if section in rules else body
        scrubbed[section] = _anywhere(section, text, names)
    return scrubbed


def _anywhere(section: str, text: str, names: _Placeholders) -> str:
    """Apply the rules for identifiers that are known by their form, wherever they stand."""
    text = _PROCESS.sub(lambda match: f"<process_name>{_process(match[1])}</process_name>", text)
    text = _HOME.sub(_home, text)
    if section not in _OWN:
        text = _UUID.sub(lambda match: _uuid(match[0], names), text)
        text = _AT_HOST.sub("user@host", text)
        text = _LABELLED.sub(_labelled, text)
        text = _ELEMENT.sub(_element, text)
        text = _MAC.sub(lambda match: _mac(match[0], names), text)
    if section not in _VERSIONS:
        text = _IPV4.sub(lambda match: _address(match[0], names), text)
        text = _IPV6.sub(lambda match: _address(match[0], names), text)
    return text


def _uuid(uuid: str, names: _Placeholders) -> str:
    if uuid.startswith(("0" * 20, "00000000-0000-0000-0000-")):
        return uuid
    number = names.number("uuid", uuid)
    return f"00000000-0000-0000-0000-{number:012x}" if "-" in uuid else f"{number:032x}"


def _mac(mac: str, names: _Placeholders) -> str:
    prefix = "00:00:5e:00:53:"  # the range for documentation (RFC 7042, 2.1.1)
    return mac if mac.startswith(prefix) else f"{prefix}{names.number('mac', mac) % 256:02x}"


def _address(text: str, names: _Placeholders) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if address.is_loopback or address.is_unspecified or any(address in network for network in _DOCUMENTATION):
        return text
    number = names.number(f"ip{address.version}", str(address))
    return f"192.0.2.{number % 256}" if address.version == 4 else f"2001:db8::{number:x}"


def _home(match: re.Match[str]) -> str:
    path, user, below = match[0], match[1], match[2]
    if user in _SHARED_USERS or path.startswith(_OWN_FOLDERS):
        return path
    return "/home/user" if below is None else f"/home/user/{SCRUBBED}"


def _process(command: str) -> str:
    """Keep a program's path without its arguments; a path in a person's folder may hold blanks, and goes as a whole."""
    found = _HOME.search(command)
    if found and _home(found) != found[0]:
        return f"/home/user/{SCRUBBED}"
    return command if command.startswith("[") else command.partition(" ")[0]


def _labelled(match: re.Match[str]) -> str:
    return match[0] if _is_placeholder(match[3]) else f"{match[1]}{match[2]}{SCRUBBED}"


def _element(match: re.Match[str]) -> str:
    return match[0] if _is_placeholder(match[2]) else f"<{match[1]}>{SCRUBBED}</{match[1]}>"


def _is_placeholder(value: str) -> bool:
    return value.strip() in _NOTHING or bool(re.fullmatch(r"(?:[A-Z]+-)*0{8}-0{4}-0{4}-0{4}-[0-9a-f]{12}", value.strip()))


def _identity(body: str, _: _Placeholders) -> str:
    def user(match: re.Match[str]) -> str:
        return match[0] if match[1] in _SHARED_USERS else "user=user"

    body = re.sub(r"^user=(.*)$", user, body, flags=re.M)
    return re.sub(r"^(host\w*)=.*$", r"\1=host", body, flags=re.M)


def _device(device: str, names: _Placeholders) -> str:
    if _PLAIN_DEVICE.fullmatch(device) or re.fullmatch(r"(?:/dev/mapper/)?volume\d+", device):
        return device
    prefix = "/dev/mapper/" if device.startswith("/dev/") else ""
    return f"{prefix}volume{names.number('volume', device)}"


def _devices(body: str, names: _Placeholders) -> str:
    return _DEVICE.sub(lambda match: _device(match[0], names), body)


def _disks(body: str, names: _Placeholders) -> str:
    """In lines of ``path free device …`` the device may also be a share on a server or a ZFS data set."""
    lines = []
    for line in body.split("\n"):
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] not in _PLAIN_FILE_SYSTEM:
            fields[2] = _device(fields[2], names)
        lines.append(" ".join(fields))
    return "\n".join(lines)


def _kernel_command_line(body: str, names: _Placeholders) -> str:
    def parameter(match: re.Match[str]) -> str:
        if match[1] in ("root", "resume") and _DISK_UUID.fullmatch(match[2]):
            return match[0]  # the UUID is replaced as every other
        return f"{match[1]}={SCRUBBED}" if _NAMING_PARAMETER.fullmatch(match[1]) else match[0]

    return _devices(re.sub(r'(?<!\S)([^\s="]+)=((?:"[^"]*"|[^\s"])*)', parameter, body), names)


def _service_user(body: str, _: _Placeholders) -> str:
    """The fifth field of a line of /etc/passwd holds a person's name and telephone number."""
    fields = body.split(":")
    return ":".join((*fields[:4], "", *fields[5:])) if len(fields) == 7 else body


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _release(body: str) -> str:
    """Keep each decision's key and value; where the file cannot be read, nothing of it."""
    link, _, rest = body.partition("\n")
    content, _, plan = rest.partition("\n")
    if not plan:
        return body
    decisions = _json_object(plan).get("decisions")
    kept = [
        # the fingerprint of a key is no secret, yet tells hosts of one owner from those of another
        {"key": item["key"], "value": SCRUBBED if item["key"] == "api-key" and item["value"] != "none" else item["value"]}
        for item in (decisions if isinstance(decisions, list) else [])
        if isinstance(item, dict) and {"key", "value"} <= item.keys()
    ]
    return "\n".join((link, content, json.dumps({"decisions": kept}, ensure_ascii=False)))


def _smoke(body: str) -> str:
    """Keep what was asked for and the outcome; not the answers' times, which no fact holds."""
    record = _json_object(body)
    request = record.get("request")
    if not isinstance(request, dict) or "outcome" not in record:
        return ""
    return json.dumps({"request": request | {"host": "host"}, "outcome": record["outcome"]}, ensure_ascii=False)
