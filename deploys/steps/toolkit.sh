# NVIDIA's container toolkit. deploys/steps/toolkit.py sends it behind driver.sh and cuda.sh, whose functions it uses, with:
#   packages     what is installed: one
#   source, key  its apt source, for this transaction alone, and the source's key, in base64
# shellcheck disable=SC2154
has_specification() { grep -Eqs 'kind"?: *"?nvidia.com/gpu' /etc/cdi/*.yaml /etc/cdi/*.json /var/run/cdi/*.yaml /var/run/cdi/*.json; }

install_toolkit() {
  finish_half_done
  passing_source
  set -- -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$lists"
  try_packages "$packages" nvidia_container_repository '^(nvidia-container-toolkit|libnvidia-container)' "$@"
  apt "$@" -y --no-install-recommends install "$packages" || explain "$packages could not be installed"
  # its own unit writes the specification, now, at each boot and with each driver
  has_specification || systemctl start nvidia-cdi-refresh.service ||
    fail "$packages is installed, and its nvidia-cdi-refresh.service fails or is not there (before 1.18): journalctl -u nvidia-cdi-refresh"
  has_specification ||
    fail "$packages is installed, and there is no CDI specification of the cards: journalctl -u nvidia-cdi-refresh says why"
}
