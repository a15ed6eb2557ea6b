#!/bin/sh
# Sets up what the Makefile's targets need: Debian packages, the virtual environment. Safe to repeat; a repeat takes no time.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.venv/.set-up

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "python3 is missing: install it (apt-get install python3), version 3.11 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old: bringup needs 3.11 or newer; name another one: make PYTHON=python3.12 ..."

as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo

# add PACKAGE...: puts those that are missing here into $missing
add() {
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
  done
}

# install WHAT: installs $missing; without those packages there is no WHAT
install() {
  [ -n "$missing" ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "no apt-get here, so these stay missing:$missing (without them there are no $1)"
  elif [ -n "$as_root" ] && ! command -v sudo >/dev/null; then
    say "neither root nor sudo, so these stay missing:$missing (without them there are no $1)"
  else
    say "installing Debian packages:$missing"
    $as_root apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
      say "apt-get could not install:$missing (without them there are no $1)"
  fi
}

# throw-away hosts: systemd-container, debootstrap, openssh-client; models are copied with rsync; virtual machines: QEMU, mke2fs
missing=""
add systemd-container debootstrap openssh-client rsync qemu-system-x86 qemu-utils e2fsprogs iproute2 gpg gpg-agent dpkg-dev
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
install "throw-away hosts or virtual machines"
missing=""
add pci.ids
install "tests of the cards' names"
# a browser, its driver, a font, and what reads the printed page; by themselves, since Ubuntu has chromium as a snap only
missing=""
add chromium chromium-driver fonts-dejavu-core poppler-utils
install "tests of the report's pages in a browser"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "python3-venv is missing: apt-get install python3-venv"

if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  say "making the virtual environment .venv (about 75 small packages)"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  .venv/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' ||
    fail "the packages could not be installed; pip's message stands above (its settings: .venv/bin/pip config list)"
  touch "$stamp"
fi
