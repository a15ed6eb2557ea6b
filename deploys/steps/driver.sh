# Package work and checks of the driver's step, on the host. deploys/steps/driver.py sends it with the variables below set before
# it, and one of the verbs at its end behind it. apt's lines are shown as they come.
#   wait_s       how long another program may keep apt busy
#   wanted       how the driver's version begins
#   packages     what is installed in one transaction
#   prefix       what is needed once for each installed kernel: its release follows
#   hold         yes: the driver's packages are put on hold
#   pins, source, key   files' contents in base64; source is empty where the host's own package sources are enough
# shellcheck disable=SC2154
set -u
LC_ALL=C; DEBIAN_FRONTEND=noninteractive; NEEDRESTART_SUSPEND=1; PATH="$PATH:/usr/sbin:/sbin"
export LC_ALL DEBIAN_FRONTEND NEEDRESTART_SUSPEND PATH
# an SSH connection that is cut must not stop dpkg half-way
trap '' HUP PIPE
state=/var/lib/bringup/driver
pins_file=/etc/apt/preferences.d/bringup-nvidia
sources_file=/etc/apt/sources.list.d/bringup-nvidia.sources
keyring=/etc/apt/keyrings/bringup-nvidia.gpg
# names of the driver's packages, in Ubuntu, Debian and NVIDIA's repository
ours='^(nvidia-|libnvidia-|linux-(modules|objects|signatures)-nvidia-|xserver-xorg-video-nvidia|libcuda[0-9]|libnvcuvid|libxnvctrl|cuda-drivers|firmware-nvidia|dkms$)'
work=$(mktemp -d) || exit 1
trap 'put_back; rm -rf "$work"' EXIT

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
installed() { dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\n' | sed -n 's/^.i.|//p'; }
# the driver's module for the kernel $1; Debian's own packages call it nvidia-current
module_of() { find "/lib/modules/$1" \( -name 'nvidia.ko*' -o -name 'nvidia-current.ko*' \) 2>/dev/null | head -n 1; }
names() { installed | cut -d '|' -f 1 | sort -u; }

# apt-get; its output goes on and is kept in $work/log. It waits for dpkg's lock itself, but not for that of the package lists.
apt() {
  waited=0
  while :; do
    { apt-get -q -o DPkg::Lock::Timeout="$wait_s" -o Dpkg::Use-Pty=0 "$@"; echo $? > "$work/rc"; } 2>&1 | tee "$work/log"
    rc=$(cat "$work/rc")
    [ "$rc" = 0 ] && return 0
    grep -q 'Could not get lock /var/lib/apt/lists' "$work/log" && [ "$waited" -lt "$wait_s" ] || return "$rc"
    [ $((waited % 20)) = 0 ] && say "waiting for another program that refreshes the package lists ($waited of $wait_s s)"
    sleep 2; waited=$((waited + 2))
  done
}

# Ends with what failed ($1), its cause where apt's words are known, and those words.
explain() {
  cause='apt says why'
  has() { grep -Eq "$1" "$work/log"; }
  if has 'Could not get lock|is another process using it'; then
    cause="another program kept apt busy for $wait_s s; wait until it has ended, or end it, and run this again (apt_wait_s)"
  elif has 'SHA1 is not considered secure'; then
    cause="this host's apt takes no signatures made with SHA-1: set nvidia_repository to the one for this release of the distribution, with its key of today"
  elif has 'NO_PUBKEY|is not signed|EXPKEYSIG|REVKEYSIG|BADSIG|signatures were invalid|signatures couldn.t be verified|OpenPGP signature verification failed'; then
    cause="a repository is not signed by the key that it should be signed by: nvidia_repository names the wrong key, or the repository is not what it claims to be"
  elif has 'Hash Sum mismatch|unexpected size'; then
    cause='the mirror delivers other files than its own index names: wait until it is in step, or take another one'
  elif has 'No space left|enough free space'; then
    cause='the disk is full: make room and run this again, which goes on where it stopped'
  elif has 'Could not resolve|Could not connect|Connection (refused|timed out|failed)|Failed to fetch|does not have a Release file'; then
    cause='a repository cannot be reached or has nothing there: see nvidia_repository and /etc/apt'
  elif has 'Unable to locate package'; then
    cause='a package is in none of the host'"'"'s package sources: set nvidia_repository, or enable the component that has it (restricted on Ubuntu)'
  elif has 'unmet dependencies|held broken packages|pkgProblemResolver'; then
    cause='packages on hold, or of another source, contradict it'
  elif has 'Sub-process /usr/bin/dpkg returned an error'; then
    cause="a package's own script failed, see above; once its cause is gone, a repeated run finishes what is half done"
  fi
  printf 'error: %s: %s\n' "$1" "$cause" >&2
  grep -E '^(E|W|dpkg): ?' "$work/log" | tail -n 6 | sed 's/^/    /' >&2
  exit 1
}

# Refuses a bad repository before it becomes one of the host's: with lists of its own, and this one source.
check_repository() {
  chmod 755 "$work"; mkdir -p "$work/lists/partial"  # apt reads as its own user
  printf %s "$key" | base64 -d > "$work/key.gpg"
  printf %s "$source" | base64 -d > "$work/new.sources"
  # the distribution's own suites keep the keyring that is there
  [ ! -s "$work/key.gpg" ] || sed -i "s|^Signed-By: .*|Signed-By: $work/key.gpg|" "$work/new.sources"
  apt -o Dir::Etc::sourcelist="$work/new.sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$work/lists" \
    -o APT::Update::Error-Mode=any update || explain 'the repository of the driver cannot be used, nothing was changed'
}

# Waits for whoever works with packages now; what looks half done until then is theirs.
wait_for_apt() {
  apt check || ! grep -q 'Could not get lock' "$work/log" || explain 'the packages cannot be changed, and nothing was'
}

finish_half_done() {
  wait_for_apt
  [ -n "$(dpkg --audit 2>&1)" ] || return 0
  say 'finishing what an earlier installation left half done'
  { dpkg --configure -a; echo $? > "$work/rc"; } 2>&1 | tee "$work/log"
  [ "$(cat "$work/rc")" = 0 ] && [ -z "$(dpkg --audit 2>&1)" ] && return 0
  # what dpkg cannot configure may lack a package, which apt then gets; or it removes what is half there
  apt-get -q -s -y --no-install-recommends -f install > "$work/log" 2>&1
  foreign=$(foreign_removals)
  [ -z "$foreign" ] ||
    fail "packages are half installed, and apt would remove others to mend that ($foreign): run apt-get -f install yourself; nothing was done about the driver"
  apt -y --no-install-recommends -f install || explain 'packages are half installed and cannot be finished; nothing was done about the driver'
}

# What apt would remove, by the simulation in $work/log, that is not the driver's.
foreign_removals() { sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | grep -Ev "$ours" | tr '\n' ' '; }

# Prints what each installed kernel still needs; the running one must get it.
kernel_packages() {
  running=$(uname -r)
  [ -d "/lib/modules/$running" ] ||
    fail "the running kernel $running is no longer installed, so that no module can be built for it: reboot the host, then run this again"
  for dir in /lib/modules/*; do
    kernel=${dir##*/}
    [ -d "$dir/kernel" ] || [ "$kernel" = "$running" ] || continue
    [ -e "/boot/vmlinuz-$kernel" ] || [ "$kernel" = "$running" ] || continue
    [ "$prefix" = linux-headers- ] && [ -e "$dir/build" ] && continue
    # one that others only name has no text
    if apt-cache show --no-all-versions "$prefix$kernel" 2>/dev/null | grep -q '^Package:'; then echo "$prefix$kernel"
    elif [ "$kernel" = "$running" ]; then
      fail "no package source of the host has $prefix$kernel, without which there is no module for the running kernel: a newer kernel has probably replaced it (apt-get dist-upgrade, reboot, run this again)"
    else
      say "note: kernel $kernel gets no driver, since no package source has $prefix$kernel: remove that kernel, or do not boot it" >&2
    fi
  done
}

# Makes $1, in base64, the content of the file $2, and removes the file where there is none.
put() {
  if [ -n "$1" ]; then mkdir -p "${2%/*}" && printf %s "$1" | base64 -d > "$2" && chmod 644 "$2"  # apt reads as its own user
  else rm -f "$2"; fi
}

# Puts the pins and the repository in place and takes the driver's packages off hold, which would keep the branch from moving
# together. All of it comes back when this script ends, unless keep_trial was called.
begin_trial() {
  mkdir "$work/trial"
  for file in "$pins_file" "$sources_file" "$keyring"; do [ ! -e "$file" ] || cp -p "$file" "$work/trial/"; done
  apt-mark showhold | grep -E "$ours" > "$work/trial/holds"
  put "$pins" "$pins_file"; put "$key" "$keyring"; put "$source" "$sources_file"
  # shellcheck disable=SC2046
  [ ! -s "$work/trial/holds" ] || apt-mark -q unhold $(cat "$work/trial/holds") > /dev/null
}

keep_trial() { mv "$work/trial" "$work/kept"; }

put_back() {
  [ -d "$work/trial" ] || return 0
  cmp -s "$sources_file" "$work/trial/${sources_file##*/}" || [ ! -e "$sources_file" ] || lists_are_stale=yes
  for file in "$pins_file" "$sources_file" "$keyring"; do
    if [ -e "$work/trial/${file##*/}" ]; then cp -p "$work/trial/${file##*/}" "$file"; else rm -f "$file"; fi
  done
  # shellcheck disable=SC2046
  [ ! -s "$work/trial/holds" ] || apt-mark -q hold $(cat "$work/trial/holds") > /dev/null
  [ -z "${lists_are_stale-}" ] || apt-get -q update > /dev/null 2>&1
  # begun for this installation, which added nothing
  [ -s "$state/added" ] || [ -s "$state/held" ] || { rm -rf "$state"; rmdir "${state%/*}" 2>/dev/null || true; }
}

# Whether the driver's version that is to be had is the one that is wanted, and Ubuntu's signed modules of the running kernel are of
# that same one.
check_versions() {
  for package in $packages; do
    case $package in linux-*) continue ;; esac
    candidate=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^  Candidate: //p')
    case ${candidate#*:} in
      "$wanted"*) ;;
      '' | '(none)')
        fail "$package is in none of the host's package sources: set nvidia_repository, or enable the component that has it (restricted on Ubuntu)" ;;
      *)
        fail "$package is to be had in version $candidate, not in $wanted*: set nvidia_driver to what there is, or nvidia_repository to a source that has it" ;;
    esac
  done
  [ "$prefix" != linux-headers- ] || return 0
  # their package says it as its least version of nvidia-kernel-common
  signed=$(apt-cache show --no-all-versions "$prefix$(uname -r)" 2>/dev/null |
    sed -n 's/^Depends:.*nvidia-kernel-common-[a-z0-9-]* (>= \([0-9.]*\)).*/\1/p')
  candidate=${candidate#*:}
  [ -z "$signed" ] || [ "$signed" = "${candidate%%-*}" ] ||
    fail "Ubuntu's signed modules for the running kernel $(uname -r) are of driver $signed, the rest of it is $candidate: set nvidia_driver to $signed if that is still to be had; or apt-get dist-upgrade, reboot into the newer kernel, run this again"
}

# What apt is asked for. A driver that is whole and of a wanted version stays at that one, though a newer one may be out: a hold
# that is put back must not bring another driver.
asked_for() {
  installed > "$work/versions"
  exact=
  for package in $packages; do
    version=$(sed -n "s/^$package|//p" "$work/versions")
    case $package:${version#*:} in
      linux-*) exact="$exact $package" ;;
      *:"$wanted"*) exact="$exact $package=$version" ;;
      *) echo "$packages"; return ;;
    esac
  done
  echo "$exact"
}

install_driver() {
  finish_half_done
  begin_trial
  apt update || explain 'the package lists cannot be refreshed; nothing was changed'
  per_kernel=$(kernel_packages) || exit 1
  # shellcheck disable=SC2046,SC2086 # lists of names
  set -- $(asked_for) $per_kernel
  check_versions
  apt-get -q -s -y --allow-downgrades --no-install-recommends install "$@" > "$work/log" 2>&1 ||
    explain 'apt cannot install the driver, nothing was changed'
  foreign=$(foreign_removals)
  [ -z "$foreign" ] ||
    fail "with the driver apt would remove what is not the driver's ($foreign); nothing was changed: remove or upgrade that first"

  installed > "$work/before"
  mkdir -p "$state"; touch "$state/added" "$state/held"
  cp "$state/added" "$work/added_before"
  # beforehand: what is there after a power cut has to be taken away some day, too
  names > "$work/now"
  sed -En 's/^Inst ([^ ]+).*/\1/p' "$work/log" | sort -u | comm -13 "$work/now" - | sort -u - "$state/added" > "$work/added"
  cp "$work/added" "$state/added"
  apt -y --allow-downgrades --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    install "$@"
  rc=$?
  if [ "$rc" != 0 ] && installed | cmp -s - "$work/before" && [ -z "$(dpkg --audit 2>&1)" ]; then
    cp "$work/added_before" "$state/added"
    explain 'the driver could not be installed, nothing was changed'
  fi
  keep_trial
  cp "$work/log" "$work/install.log"
  put_on_hold "$(cat "$work/kept/holds")"
  cp "$work/install.log" "$work/log"
  [ "$rc" = 0 ] || explain 'the driver could not be installed'
  [ "$prefix" != linux-headers- ] || build_missing_modules
}

# A kernel whose headers came after the driver has no module yet.
build_missing_modules() {
  for dir in /lib/modules/*; do
    kernel=${dir##*/}
    [ -d "$dir/kernel" ] && [ -e "$dir/build" ] || continue
    [ -z "$(module_of "$kernel")" ] || continue
    say "building the module for kernel $kernel"
    dkms autoinstall -k "$kernel" || fail "DKMS cannot build the driver for kernel $kernel: see /var/lib/dkms/nvidia*/*/build/make.log, or remove that kernel"
  done
}

# Holds the driver's packages; what was on hold before ($1) stays so where it is still there.
put_on_hold() {
  new=
  if [ "$hold" = yes ]; then
    new=$(installed | awk -F '|' -v ours="$ours" -v wanted="$wanted" \
      '{version = $2; sub(/^[0-9]+:/, "", version)} $1 ~ ours && $1 != "dkms" && index(version, wanted) == 1 {print $1}')
  fi
  names > "$work/now"
  # shellcheck disable=SC2086
  both=$(printf '%s\n' $1 $new | sort -u | comm -12 - "$work/now")
  # shellcheck disable=SC2086
  [ -z "$both" ] || apt-mark -q hold $both > /dev/null
  printf '%s\n' "$new" | sort -u - "$state/held" | sed '/^$/d' > "$work/held" && cp "$work/held" "$state/held"
}

remove_driver() {
  [ -e "$state/added" ] || return 0
  finish_half_done
  # shellcheck disable=SC2046
  [ ! -s "$state/held" ] || apt-mark -q unhold $(names | comm -12 - "$state/held") > /dev/null
  names | comm -12 - "$state/added" > "$work/going"
  if [ -s "$work/going" ]; then
    foreign=$(beyond "$work/going")
    if [ -n "$foreign" ]; then
      grep -E "$ours" "$work/going" > "$work/driver"
      say "note: what came with the driver and others need now stays ($foreign)"
      mv "$work/driver" "$work/going"
      foreign=$(beyond "$work/going")
      [ -z "$foreign" ] || fail "other packages need the driver ($foreign): remove them first; nothing was changed"
    fi
    # shellcheck disable=SC2046
    apt -y purge $(cat "$work/going") || explain 'the driver could not be removed'
  fi
}

# What a removal of the packages in the file $1 would remove beyond them.
beyond() {
  # shellcheck disable=SC2046
  apt-get -q -s -y purge $(cat "$1") 2>/dev/null | sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' | sort -u | comm -23 - "$1" | tr '\n' ' '
}

# Initial RAM disks that are older than the blacklist still hold nouveau.
rebuild_initramfs() {
  command -v update-initramfs >/dev/null || { say 'update-initramfs is not here, so the initial RAM disk is left as it is'; return 0; }
  for image in /boot/initrd.img-*; do
    # shellcheck disable=SC3013 # dash, bash and busybox have -nt
    [ -e "$image" ] || continue
    [ "$1" = all ] || [ /etc/modprobe.d/bringup-nvidia.conf -nt "$image" ] || continue
    update-initramfs -u -k "${image#/boot/initrd.img-}" || fail "the initial RAM disk of ${image#/boot/initrd.img-} could not be made anew"
  done
}

refresh_lists() { apt update || say 'note: the package lists could not be refreshed'; }

driver_status() {
  echo "kernel=$(uname -r)"
  read -r loaded 2>/dev/null < /sys/module/nvidia/version; echo "loaded=${loaded:-}"
  module=$(module_of "$(uname -r)")
  echo "installed=$([ -n "$module" ] && modinfo -F version "$module" 2>/dev/null)"
  for dev in /sys/bus/pci/devices/*; do
    read -r vendor 2>/dev/null < "$dev/vendor" && [ "$vendor" = 0x10de ] || continue
    holder=$(readlink "$dev/driver" 2>/dev/null); [ "${holder##*/}" = nouveau ] && echo nouveau=yes
  done
  echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
  echo "service=$(systemctl is-active vllm.service 2>/dev/null)"
  if command -v nvidia-smi >/dev/null; then
    said=$(timeout -k 2 30 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1); rc=$?
    [ "$rc" -lt 124 ] || said='nvidia-smi did not answer within 30 s'
    echo "smi_rc=$rc"; echo "smi=$(printf %s "$said" | tr '\n' ' ')"
  fi
}

