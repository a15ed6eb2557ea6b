# NVIDIA's container toolkit. deploys/steps/toolkit.py sends it behind driver.sh and cuda.sh, whose functions it uses, with:
#   package      what is installed
#   source, key  its apt source, for this transaction alone, and the source's key, in base64
# shellcheck disable=SC2154
has_specification() { grep -Eqs 'kind"?: *"?nvidia.com/gpu' /etc/cdi/*.yaml /etc/cdi/*.json /var/run/cdi/*.yaml /var/run/cdi/*.json; }

install_toolkit() {
  finish_half_done
  passing_source
  set -- -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$lists"
  apt "$@" update || explain 'the package lists cannot be refreshed; nothing was changed'
  apt-get -q -s -y "$@" --no-install-recommends install "$package" > "$work/log" 2>&1 ||
    explain "apt cannot install $package, nothing was changed"
  touched=$(sed -En 's/^(Inst|Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | grep -Ev "^(nvidia-container-toolkit|libnvidia-container)" | grep -E "$ours" | tr '\n' ' ')
  gone=$(sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | tr '\n' ' ')
  [ -z "$touched$gone" ] ||
    fail "with $package apt would change what is not its own ($touched$gone); nothing was changed: see nvidia_container_repository"
  apt "$@" -y --no-install-recommends install "$package" || explain "$package could not be installed"
  # its own unit writes the specification, now, at each boot and with each driver
  has_specification || systemctl start nvidia-cdi-refresh.service ||
    fail "$package is installed, and its nvidia-cdi-refresh.service fails or is not there (before 1.18): journalctl -u nvidia-cdi-refresh"
  has_specification ||
    fail "$package is installed, and there is no CDI specification of the cards: journalctl -u nvidia-cdi-refresh says why"
}
