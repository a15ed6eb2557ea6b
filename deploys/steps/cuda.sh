# The CUDA toolkit, beside others. deploys/steps/cuda.py sends it behind driver.sh, whose functions it uses, with these variables:
#   packages   what is installed
#   home       folder of this version: /usr/local/cuda-13.0
#   source, key   one more apt source for this transaction, and its key, in base64; empty where the host's own sources have it
# shellcheck disable=SC2154
cuda_state=/var/lib/bringup/cuda

# NVIDIA's repository has drivers too, so that it must not become one of the host's sources for the sake of the toolkit.
passing_source() {
  chmod 755 "$work"; mkdir -p "$work/parts"
  printf %s "$key" | base64 -d > "$work/key.gpg"
  for file in /etc/apt/sources.list.d/*; do [ ! -e "$file" ] || ln -s "$file" "$work/parts/"; done
  printf %s "$source" | base64 -d | sed "s|^Signed-By: .*|Signed-By: $work/key.gpg|" > "$work/parts/zz-bringup-cuda.sources"
  # the distribution's are large
  lists=$(mktemp -d -p /var/tmp bringup-lists.XXXXXX) || exit 1
  chmod 755 "$lists"; cp -a /var/lib/apt/lists/. "$lists"; mkdir -p "$lists/partial"
}

# Tries the installation of $packages, and ends where apt refuses it or would change what is not theirs.
#   $1 what they are, in words   $2 setting that says where they come from   $3 theirs among the names of the driver's   apt's options
try_packages() {
  what=$1; setting=$2; own=$3; shift 3
  apt "$@" update || explain 'the package lists cannot be refreshed; nothing was changed'
  # shellcheck disable=SC2086
  apt-get -q -s -y "$@" --no-install-recommends install $packages > "$work/log" 2>&1 ||
    explain "apt cannot install $what, nothing was changed"
  touched=$(sed -En 's/^(Inst|Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | grep -Ev "$own" | grep -E "$ours" | tr '\n' ' ')
  gone=$(sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | tr '\n' ' ')
  [ -z "$touched$gone" ] ||
    fail "with $what apt would change what is not its own ($touched$gone); nothing was changed: see $setting"
}

# The links that "the" CUDA of the machine goes by; the packages point them at themselves.
default_links() { for link in /usr/local/cuda "${home%.*}"; do printf '%s %s\n' "$link" "$(readlink "$link")"; done; }

install_cuda() {
  finish_half_done
  set --
  if [ -n "$source" ]; then
    passing_source
    set -- -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$lists"
  fi
  try_packages 'the CUDA toolkit' nvidia_repository '^$' "$@"

  mkdir -p "$cuda_state"; touch "$cuda_state/added"
  names > "$work/before"
  default_links > "$work/links"
  for group in cuda "$(basename "${home%.*}")"; do
    update-alternatives --list "$group" 2>/dev/null | grep -qx "$home" || echo "$group"
  done > "$work/groups"
  # without the packages' entry in the linker's search path
  # shellcheck disable=SC2086
  apt "$@" -y --no-install-recommends -o "Dpkg::Options::=--path-exclude=/etc/ld.so.conf.d/*cuda*" install $packages
  rc=$?
  names | comm -13 "$work/before" - | sort -u - "$cuda_state/added" > "$work/added" && cp "$work/added" "$cuda_state/added"
  cp "$work/log" "$work/install.log"
  keep_default
  cp "$work/install.log" "$work/log"
  [ "$rc" = 0 ] || explain 'the CUDA toolkit could not be installed'
  [ -x "$home/bin/nvcc" ] || fail "the packages are installed, but $home/bin/nvcc is not there: they are not those of this version"
}

# The machine's default stays what it was: ours is no candidate for it, and a link that was made by hand comes back.
keep_default() {
  while read -r group; do
    ! update-alternatives --list "$group" 2>/dev/null | grep -qx "$home" || update-alternatives --quiet --remove "$group" "$home"
  done < "$work/groups"
  while read -r link target; do
    [ "$(readlink "$link")" != "$target" ] || continue
    if [ -z "$target" ]; then rm -f "$link"; else ln -sfn "$target" "$link"; fi
  done < "$work/links"
}

remove_cuda() {
  [ -e "$cuda_state/added" ] || return 0
  finish_half_done
  names | comm -12 - "$cuda_state/added" > "$work/going"
  if [ -s "$work/going" ]; then
    foreign=$(beyond "$work/going") || explain 'the CUDA toolkit cannot be removed, nothing was changed'
    [ -z "$foreign" ] || fail "other packages need the CUDA toolkit ($foreign): remove them first; nothing was changed"
    # shellcheck disable=SC2046
    apt -y $(exchange "$work/going") || explain 'the CUDA toolkit could not be removed'
  fi
  rm -rf "$cuda_state"; rmdir /var/lib/bringup 2>/dev/null || true
}
