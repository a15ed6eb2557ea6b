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
# in memory, so that a disk that fills up takes none of it
work=$(mktemp -d /run/bringup-driver.XXXXXX) || exit 1
trap 'put_back; rm -rf "$work" "${lists-}"' EXIT

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
installed() { dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\n' | sed -n 's/^.i.|//p'; }
# the driver's module for the kernel $1; Debian's own packages call it nvidia-current
module_of() { find "/lib/modules/$1" \( -name 'nvidia.ko*' -o -name 'nvidia-current.ko*' \) 2>/dev/null | head -n 1; }
# as apt writes them, those of another architecture with its name
names() { dpkg-query -W -f '${db:Status-Abbrev}|${Package}\n${db:Status-Abbrev}|${binary:Package}\n' | sed -n 's/^.i.|//p' | sort -u; }
hold() { [ -z "$*" ] || apt-mark -q hold "$@" > /dev/null; }
unhold() { [ -z "$*" ] || apt-mark -q unhold "$@" > /dev/null; }

# One at a time: one whose connection was cut goes on, and a repeated run must not meet it half-way.
take_turns() {
  exec 9> /run/bringup-driver.lock
  flock -n 9 && return
  say "waiting for an earlier run, whose package work goes on here (at most $wait_s s)"
  flock -w "$wait_s" 9 || fail "an earlier run still works with packages here after $wait_s s; wait until it has ended and run this again (apt_wait_s)"
}

# apt-get; its output goes on and is kept in $work/log. It waits for dpkg's lock itself, but not for that of the package lists. A
# settings file that somebody changed stays, where dpkg would ask.
apt() {
  waited=0
  while :; do
    { apt-get -q -o DPkg::Lock::Timeout="$wait_s" -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef \
      -o Dpkg::Options::=--force-confold "$@" 9>&-; echo $? > "$work/rc"; } 2>&1 | tee "$work/log"
    rc=$(cat "$work/rc")
    [ "$rc" = 0 ] && return 0
    grep -q '^E: Could not get lock /var/lib/apt/lists' "$work/log" && [ "$waited" -lt "$wait_s" ] || return "$rc"
    [ $((waited % 20)) = 0 ] && say "waiting for another program that refreshes the package lists ($waited of $wait_s s)"
    sleep 2; waited=$((waited + 2))
  done
}

# Whether apt gave up waiting for a lock. That it waits it says with the same words, and may fail of something else then.
lock_was_kept() { grep -Eq '^E: (Could not get lock|.*is another process using it)' "$work/log"; }

# Ends with what failed ($1), its cause where apt's words are known, and those words.
explain() {
  cause='apt says why'
  has() { grep -Eq "$1" "$work/log"; }
  if lock_was_kept; then
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
  apt check || ! lock_was_kept || explain 'the packages cannot be changed, and nothing was'
}

# What all package work begins with.
finish_half_done() {
  take_turns
  wait_for_apt
  [ -n "$(dpkg --audit 2>&1)" ] || return 0
  say 'finishing what an earlier installation left half done'
  { dpkg --force-confdef --force-confold --configure -a 9>&-; echo $? > "$work/rc"; } 2>&1 | tee "$work/log"
  [ "$(cat "$work/rc")" = 0 ] && [ -z "$(dpkg --audit 2>&1)" ] && return 0
  # what dpkg cannot configure may lack a package, which apt then gets; or it removes what is half there
  apt-get -q -s -y --no-install-recommends -f install > "$work/log" 2>&1
  foreign=$(foreign_removals)
  [ -z "$foreign" ] ||
    fail "packages are half installed, and apt would remove others to mend that ($foreign): run apt-get -f install yourself; nothing was done about the driver"
  apt -y --no-install-recommends -f install || explain 'packages are half installed and cannot be finished; nothing was done about the driver'
}

# What apt would remove, by the simulation in $work/log, that is not the driver's.
foreign_removals() { sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | grep -Ev "$ours" | paste -s -d ' '; }

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

# Puts a copy of the file $1 in the place of $2, whole or not at all.
move_in() {
  cp -p "$1" "$2.new" && mv "$2.new" "$2" && return
  rm -f "$2.new"; return 1
}

# Makes $1, in base64, the content of the file $2, and removes the file where there is none.
put() {
  [ -n "$1" ] || { rm -f "$2"; return; }
  printf %s "$1" | base64 -d > "$work/content"; chmod 644 "$work/content"  # apt reads as its own user
  mkdir -p "${2%/*}"; move_in "$work/content" "$2" || fail "$2 cannot be written, nothing was changed: is the disk full?"
}

# Makes standard input the content of the file $1 of what is remembered here.
remember() {
  cat > "$work/content"
  move_in "$work/content" "$state/$1" || fail "$state/$1 cannot be written: is the disk full? Make room and run this again"
}

# Takes the driver's packages off hold, which would keep the branch from moving together. They and the files of apt's settings come
# back when this script ends, unless keep_trial was called.
begin_trial() {
  mkdir "$work/trial"
  for file in "$pins_file" "$sources_file" "$keyring"; do [ ! -e "$file" ] || cp -p "$file" "$work/trial/"; done
  apt-mark showhold | grep -E "$ours" | sort -u > "$work/trial/holds"
  # shellcheck disable=SC2046
  unhold $(cat "$work/trial/holds")
}

keep_trial() { mv "$work/trial" "$work/kept"; }

put_back() {
  [ -d "$work/trial" ] || return 0
  cmp -s "$sources_file" "$work/trial/${sources_file##*/}" || [ ! -e "$sources_file" ] || lists_are_stale=yes
  for file in "$pins_file" "$sources_file" "$keyring"; do
    before="$work/trial/${file##*/}"
    if [ ! -e "$before" ]; then rm -f "$file"
    elif ! cmp -s "$before" "$file"; then
      move_in "$before" "$file" || say "note: $file is not as it was, and cannot be put back" >&2
    fi
  done
  # shellcheck disable=SC2046
  hold $(cat "$work/trial/holds")
  [ -z "${lists_are_stale-}" ] || apt-get -q update > /dev/null 2>&1
  # begun for this installation, which added nothing
  [ -z "${began_state-}" ] || { rm -rf "$state"; rmdir "${state%/*}" 2>/dev/null || true; }
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
    version=$(sed -n "s/^$package|//p" "$work/versions" | head -n 1)  # once for each architecture
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
  put "$pins" "$pins_file"; put "$key" "$keyring"; put "$source" "$sources_file"
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
  begin_state
  cp "$state/added" "$state/replaced" "$work"
  # beforehand: what is there after a power cut has to be taken away some day, too
  names > "$work/now"
  sed -En 's/^Inst ([^ ]+).*/\1/p' "$work/log" | sort -u | comm -13 "$work/now" - | sort -u - "$work/added" |
    remember added || exit 1
  # of somebody else's driver, each package as it was first
  sed -En 's/^(Inst|Remv|Purg) ([^ ]+) \[([^]]+)\].*/\2|\3/p' "$work/log" | grep -E "$ours" |
    awk -F '|' 'NF == 1 {ours[$1]; next} !($1 in ours) && $1 != "dkms" && !seen[$1]++' "$work/added" "$work/replaced" - |
    remember replaced || exit 1
  apt -y --allow-downgrades --no-install-recommends install "$@"
  rc=$?
  if [ "$rc" != 0 ] && installed | cmp -s - "$work/before" && [ -z "$(dpkg --audit 2>&1)" ]; then
    remember added < "$work/added"; remember replaced < "$work/replaced"
    explain 'the driver could not be installed, nothing was changed'
  fi
  keep_trial
  if [ "$rc" != 0 ]; then
    # what stops that, a disk that is still full, is what stopped apt and is told as that; a repeated run does it again
    (put_on_hold "$(cat "$work/kept/holds")") > /dev/null 2>&1
    explain 'the driver could not be installed'
  fi
  put_on_hold "$(cat "$work/kept/holds")"
  [ "$prefix" != linux-headers- ] || build_missing_modules
}

# What nvidia_state=absent goes by: packages that came (added), somebody else's that were replaced, with their versions (replaced),
# what was put on hold (held), and what had been on hold before (held_before) or installed for others' sake (auto).
begin_state() {
  [ ! -e "$state/added" ] || return 0
  began_state=yes
  mkdir -p "$state"
  remember held_before < "$work/trial/holds"
  apt-mark showauto | sort -u | remember auto || exit 1
  for file in held replaced added; do remember "$file" < /dev/null; done
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
  # shellcheck disable=SC2046,SC2086
  hold $(printf '%s\n' $1 $new | sort -u | comm -12 - "$work/now")
  printf '%s\n' "$new" | sort -u - "$state/held" | sed '/^$/d' | remember held || exit 1
}

remove_driver() {
  [ -e "$state/added" ] || return 0
  finish_half_done
  begin_trial
  rm -f "$pins_file"
  names | comm -12 - "$state/added" > "$work/going"
  grep -E "$ours" "$work/going" > "$work/driver"
  back=$(tr '|' '=' < "$state/replaced")
  [ -z "$back" ] || apt update || say 'note: the package lists could not be refreshed'
  if more=$(beyond "$work/going") && [ -z "$more" ]; then :
  elif foreign=$(beyond "$work/driver"); then
    # shellcheck disable=SC2086
    foreign=$(printf '%s\n' $foreign | comm -23 - "$work/going" | paste -s -d ' ')
    [ -z "$foreign" ] || fail "other packages need the driver ($foreign): remove them first; no package was changed"
    unneeded > "$work/unneeded" || explain 'the driver cannot be removed, nothing was changed'
    staying=$(comm -23 "$work/going" "$work/unneeded" | paste -s -d ' ')
    [ -z "$staying" ] || say "note: what came with the driver and others need now ($more) stays: $staying"
    mv "$work/unneeded" "$work/going"
  elif [ -n "$back" ]; then
    # shellcheck disable=SC2086
    say 'warning: the driver that was here before cannot be brought back, since no package source has it any more; the one that is' \
      'installed stays and is yours now. Once a source has it: apt-get install --allow-downgrades' $back
    back=; : > "$work/going"
  else
    explain 'the driver cannot be removed, nothing was changed'
  fi
  if [ -n "$back" ] || [ -s "$work/going" ]; then
    # shellcheck disable=SC2046
    apt -y $(exchange "$work/going") || explain 'the driver could not be removed'
  fi
  keep_trial
  # the holds that were there without us
  names > "$work/now"
  # shellcheck disable=SC2046
  hold $(comm -23 "$work/kept/holds" "$state/held" | sort -u - "$state/held_before" | comm -12 - "$work/now")
  auto=$(cut -d '|' -f 1 "$state/replaced" | sort -u | comm -12 - "$state/auto" | comm -12 - "$work/now")
  # shellcheck disable=SC2086
  [ -z "$auto" ] || apt-mark -q auto $auto > /dev/null
}

# Of the packages that came along ($work/going): the driver's, those that need them, and those that nothing needs then. What apt would
# remove by itself is told by marks, here by a copy of them in which nobody has asked for any of these. What others only recommend
# or suggest was not there before, either; headers of the kernels that apt protects are no exception.
unneeded() {
  cat /var/lib/apt/extended_states > "$work/marks" 2>/dev/null
  # shellcheck disable=SC2046
  apt-mark -o Dir::State::extended_states="$work/marks" auto $(cat "$work/going") > /dev/null
  # shellcheck disable=SC2046
  apt-get -q -s -y -o Dir::State::extended_states="$work/marks" -o APT::Protect-Kernels=false \
    -o APT::AutoRemove::RecommendsImportant=false -o APT::AutoRemove::SuggestsImportant=false \
    --auto-remove $(exchange "$work/driver") > "$work/log" 2>&1 || return
  sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | sort -u | comm -12 - "$work/going"
}

# apt-get's words for: the packages in the file $1 go, and those in $back come back in their versions.
exchange() {
  printf '%s ' --allow-downgrades --no-install-recommends --purge install "${back-}"; sed 's/$/-/' "$1"
}

# What an exchange would remove beyond the packages in the file $1; fails where apt cannot do it.
beyond() {
  # shellcheck disable=SC2046
  apt-get -q -s -y $(exchange "$1") > "$work/log" 2>&1 || return
  sed -En 's/^(Remv|Purg) ([^ ]+).*/\2/p' "$work/log" | sort -u | comm -23 - "$1" | paste -s -d ' '
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
    said=$(bounded 30 sh -c 'nvidia-smi --query-gpu=driver_version --format=csv,noheader; echo "rc=$?"') ||
      said='nvidia-smi did not answer within 30 s
rc=124'
    echo "smi_rc=${said##*rc=}"; echo "smi=$(printf %s "${said%rc=*}" | tr '\n' ' ')"
  fi
}

