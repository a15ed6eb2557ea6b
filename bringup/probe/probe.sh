# Prints what bringup wants to know of a host, as labelled sections. Read-only. Needs no more than a POSIX shell and coreutils;
# what is missing leaves its section empty or says so. It runs as the login user; what only root may read is asked through sudo,
# if that works without a password. Files of one line are read by the shell itself: a machine has thousands of them. `bounded` is in
# bounded.sh, which is sent before it.
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin:/usr/lib/wsl/lib"; export PATH
section() { printf '@@bringup %s\n' "$1"; }
has() { command -v "$1" >/dev/null 2>&1; }
# the first line of a file, in $v; empty where it cannot be read
v() { v=; { read -r v < "$1"; } 2>/dev/null || :; }

uid=$(id -u)
root=none
if [ "$uid" = 0 ]; then root=root; asroot=""
elif sudo -n true 2>/dev/null; then root=sudo; asroot="sudo -n"
else asroot=""; fi

section identity; echo "uid=$uid"; echo "user=$(id -un)"; echo "root=$root"
section clock; date +%s
section os-release; cat /etc/os-release 2>/dev/null
section uname; uname -r; uname -m
section init; if [ -d /run/systemd/system ]; then init=systemd; else v /proc/1/comm; init=$v; fi; echo "$init"
section virtualization
echo "detected=$(systemd-detect-virt 2>/dev/null)"
echo "container=$(systemd-detect-virt --container 2>/dev/null)"
[ -e /.dockerenv ] && echo "marker=docker"
[ -e /run/.containerenv ] && echo "marker=podman"
v /run/systemd/container; [ -n "$v" ] && echo "marker=$v"
# a machine of its own starts the kernel's threads as process 2
[ "$init" = systemd ] || { v /proc/2/comm; [ "$v" = kthreadd ] || echo "other=yes"; }
grep -q '^flags.* hypervisor' /proc/cpuinfo 2>/dev/null && echo "hypervisor=yes"
section board
for name in sys_vendor product_name board_vendor board_name bios_version bios_date; do
  v /sys/class/dmi/id/$name; echo "$name=$v"
done
section kernel-command-line; cat /proc/cmdline 2>/dev/null
section firmware
if [ -d /sys/firmware/efi ]; then echo boot=uefi; elif [ -d /sys/firmware/acpi ]; then echo boot=bios; fi
# four bytes of attributes, then the value
for file in /sys/firmware/efi/efivars/SecureBoot-*; do
  [ -r "$file" ] && printf 'secure_boot=%s\n' "$(od -An -tu1 -j4 -N1 "$file" 2>/dev/null | tr -d ' ')"
done
lockdown=$($asroot cat /sys/kernel/security/lockdown 2>/dev/null); echo "lockdown=$lockdown"
cat /sys/kernel/iommu_groups/*/type 2>/dev/null | sort -u | sed 's/^/iommu_type=/'
[ -d /sys/kernel/iommu_groups ] && { set -- /sys/kernel/iommu_groups/*; [ -e "$1" ] || shift; echo "iommu_groups=$#"; }
section time
if has timedatectl; then timeout 5 timedatectl show --property=Timezone --property=NTPSynchronized 2>/dev/null; fi
echo "localtime=$(readlink /etc/localtime 2>/dev/null)"
v /etc/timezone; echo "etc_timezone=$v"

section meminfo; cat /proc/meminfo 2>/dev/null
section swaps; cat /proc/swaps 2>/dev/null
section transparent-hugepages; cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null
section cgroup
# Without systemd, what we start stays in our own cgroup; with it, only what limits the whole host counts.
own=; [ "$init" = systemd ] || own=$(sed -n 's/^0:://p' /proc/self/cgroup 2>/dev/null)
for dir in /sys/fs/cgroup "/sys/fs/cgroup${own%/}" /sys/fs/cgroup/cpu /sys/fs/cgroup/cpuset /sys/fs/cgroup/memory; do
  for name in cpu.max cpuset.cpus.effective cpuset.effective_cpus memory.max memory.limit_in_bytes; do
    v "$dir/$name"; [ -n "$v" ] && echo "$name=$v"
  done
  v "$dir/cpu.cfs_quota_us"; quota=$v; v "$dir/cpu.cfs_period_us"
  [ -n "$quota" ] && [ -n "$v" ] && echo "cpu.max=$quota $v"
done
section cpu-model; grep -m1 '^model name' /proc/cpuinfo 2>/dev/null
section cpu-allowed; grep '^Cpus_allowed_list' /proc/self/status 2>/dev/null
section cpu-lists
for name in online present isolated; do v /sys/devices/system/cpu/$name; echo "$name=$v"; done
v /sys/devices/system/cpu/smt/control; echo "smt=$v"
if $asroot test -w /sys/devices/system/cpu/smt/control; then echo "smt_access=rw"; else echo "smt_access=ro"; fi
for kind in core atom lowpower; do v /sys/devices/cpu_$kind/cpus; echo "$kind=$v"; done
section cpus
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
  [ -d "$cpu" ] || continue
  v "$cpu/topology/physical_package_id"; line="cpu=${cpu##*/cpu} package=$v"
  v "$cpu/topology/die_id"; line="$line die=$v"
  v "$cpu/topology/core_id"; line="$line core=$v"
  for cache in "$cpu"/cache/index*; do
    v "$cache/level"; [ "$v" = 3 ] || continue
    v "$cache/shared_cpu_list"; line="$line l3=$v"
    v "$cache/size"; line="$line l3_size=$v"
  done
  v "$cpu/cpufreq/cpuinfo_max_freq"; line="$line max_khz=$v"
  v "$cpu/cpufreq/scaling_governor"; line="$line governor=$v"
  v "$cpu/cpufreq/energy_performance_preference"; line="$line epp=$v"
  v "$cpu/cpufreq/scaling_driver"; echo "$line driver=$v"
done
section idle-states
v /sys/devices/system/cpu/cpuidle/current_driver; echo "driver=$v"
for state in /sys/devices/system/cpu/cpu0/cpuidle/state*; do v "$state/latency"; [ -n "$v" ] && echo "latency_us=$v"; done
[ -e /sys/devices/system/cpu/cpu0/power/pm_qos_resume_latency_us ] && echo limits=yes
section numa
for node in /sys/devices/system/node/node[0-9]*; do
  [ -d "$node" ] || continue
  # not by the shell: dash reads byte by byte, which this file has answered with nothing since Linux 5.16
  cpus=$(cat "$node/cpulist" 2>/dev/null)
  v "$node/distance"; distances=$(echo "$v" | tr -s ' ' ,)
  echo "node=${node##*/node} cpus=$cpus memory_kb=$(awk '/MemTotal/ {print $4}' "$node/meminfo" 2>/dev/null) distances=$distances"
done
section dmidecode
if ! has dmidecode; then echo "dmidecode is not installed"
elif [ "$root" = none ]; then echo "dmidecode needs root's rights"
else $asroot dmidecode -t 4 -t 17 2>&1; fi

section pci-display
nvidia=
for dev in /sys/bus/pci/devices/*; do
  v "$dev/vendor"; [ "$v" = 0x10de ] || continue
  v "$dev/class"; case $v in 0x03*) nvidia=yes ;; *) continue ;; esac
  line="address=${dev##*/}"
  for name in device subsystem_vendor subsystem_device numa_node local_cpulist current_link_speed current_link_width \
    max_link_speed max_link_width; do
    v "$dev/$name"; line="$line $name=${v%% *}"
  done
  driver=$(readlink "$dev/driver" 2>/dev/null)
  line="$line driver=${driver##*/} config=$(od -An -tx1 -N4 "$dev/config" 2>/dev/null | tr -d ' ')"
  # what the port above the card can do: a long slot may have few lanes behind it
  here=$(readlink -f "$dev" 2>/dev/null)
  v "${here%/*}/max_link_speed"; line="$line slot_speed=${v%% *}"
  v "${here%/*}/max_link_width"; echo "$line slot_width=$v"
done
section nvidia-module
v /sys/module/nvidia/version; echo "version=$v"
v /proc/driver/nvidia/version; echo "description=$v"
section nvidia-smi
answers=yes
if has nvidia-smi; then
  bounded 15 nvidia-smi --query-gpu=pci.bus_id,name,memory.total,driver_version --format=csv,noheader,nounits ||
    { answers=; echo "nvidia-smi did not answer within 15 s"; }
else answers=; echo "nvidia-smi is not installed"; fi
section nvidia-smi-xml
# most of the report is a table of clocks that nobody reads
[ -n "$answers" ] && bounded 30 nvidia-smi -q -x | sed '/<supported_clocks>/,/<\/supported_clocks>/d'
section kernel-log
if [ "$root" = none ]; then echo "dmesg needs root's rights"
elif ! has dmesg; then echo "dmesg is not installed"
else $asroot dmesg 2>/dev/null | grep 'NVRM' | tail -n 40; fi
section kernels
for dir in /lib/modules/*; do
  [ -d "$dir/kernel" ] || continue
  kernel=${dir##*/}
  [ -e "/boot/vmlinuz-$kernel" ] || [ -e "$dir/vmlinuz" ] || [ "$kernel" = "$(uname -r)" ] || continue
  # nvidia-current is what Debian's own packages call it
  module=$(find "$dir" \( -name 'nvidia.ko*' -o -name 'nvidia-current.ko*' \) 2>/dev/null | head -n 1)
  headers=no; [ -e "$dir/build" ] && headers=yes
  echo "kernel=$kernel module=$module version=$([ -n "$module" ] && modinfo -F version "$module" 2>/dev/null) headers=$headers"
done
section driver-origin
for file in /usr/bin/nvidia-uninstall /usr/bin/nvidia-installer /var/lib/nvidia/log; do [ -e "$file" ] && echo "run_file=$file"; done
for file in /var/lib/bringup/driver/added /etc/apt/sources.list.d/bringup-nvidia.sources; do [ -e "$file" ] && echo managed=yes; done
if has update-initramfs; then
  for image in /boot/initrd.img-*; do
    # shellcheck disable=SC3013 # dash, bash and busybox have -nt
    [ -e "$image" ] && [ /etc/modprobe.d/bringup-nvidia.conf -nt "$image" ] && echo "stale_initrd=$image"
  done
fi
[ -e /var/lib/bringup/cuda/added ] && echo cuda_managed=yes
unit=$(systemctl show bringup-nvidia.service --property=LoadState --property=ActiveState 2>/dev/null)
case $unit in *LoadState=loaded*) echo "card_unit=$(printf '%s\n' "$unit" | sed -n 's/^ActiveState=//p')" ;; esac
section dkms; if has dkms; then dkms status 2>/dev/null; fi
section cuda
for dir in /usr/local/cuda-[0-9]* /usr/local/cuda /opt/cuda; do
  [ -d "$dir" ] || continue
  version=$(sed -n '/"cuda" *:/,/}/s/.*"version" *: *"\([^"]*\)".*/\1/p' "$dir/version.json" 2>/dev/null | head -n 1)
  [ -n "$version" ] || version=$(sed -n 's/^CUDA Version \([0-9.]*\).*/\1/p' "$dir/version.txt" 2>/dev/null)
  echo "path=$(readlink -f "$dir") version=$version"
done
section containers
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo cgroup=2; elif [ -d /sys/fs/cgroup ]; then echo cgroup=1; fi
if has podman; then
  echo "podman=$(podman --version 2>/dev/null | sed 's/.* //')"
  $asroot podman image list --filter 'reference=localhost/bringup/*' --format 'image={{.Repository}}:{{.Tag}}' 2>/dev/null
fi
has nvidia-ctk && echo "nvidia_ctk=$(nvidia-ctk --version 2>/dev/null | sed -n 's/.*version \([0-9][0-9.]*\).*/\1/p' | head -n 1)"
for file in /etc/cdi/*.yaml /etc/cdi/*.json /var/run/cdi/*.yaml /var/run/cdi/*.json; do
  # the names of devices; other parts of such a file have names of another form (hookName)
  grep -Eqs 'kind"?: *"?nvidia.com/gpu' "$file" && sed -En 's/^[-{ ]*"?name"?: *"?([^",]*).*/device=\1/p' "$file"
done
section packages
if has dpkg-query; then
  # shellcheck disable=SC2016 # the names in braces are dpkg-query's own
  dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\n' 2>/dev/null |
    awk -F '|' '/^h/ || /^.[UFHWt]/ || $2 ~ /nvidia|cuda|^unattended-upgrades$|^linux-image-[a-z]/ {print}'
else echo "dpkg-query is not installed"; fi
section apt-sources
# Debian has a driver of its own, in components that a host need not have enabled. A user's name and password stay where they are.
if [ -n "$nvidia" ] && has apt-get && grep -q '^ID=debian' /etc/os-release 2>/dev/null; then
  # shellcheck disable=SC2016 # apt's own variables
  form='$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)'
  sources() { apt-get indextargets "$@" --format "$form" 'Created-By: Packages' 2>/dev/null | sort -u; }
  # whose a source is, apt knows from its lists alone
  found=$(sources); [ -n "$found" ] || found=$(sources --no-release-info)
  printf '%s\n' "$found" | while IFS='|' read -r origin uri suite component entry; do
    file=${entry%:*}
    case $uri in '' | *@*) continue ;; esac
    # the entry's number counts the paragraphs, or the lines
    case $file in
      *.sources) key=$(sed '/^#/d' "$file" | awk -v number="${entry##*:}" 'BEGIN {RS = ""} NR == number' |
        sed -n '/^[Ss]igned-[Bb]y:/{s/^[^:]*: *//;s/^$/embedded/;p;}') ;;
      *) key=$(sed -n "${entry##*:}s/^[^]]*signed-by=\\([^] ]*\\).*/\\1/p" "$file") ;;
    esac
    echo "$origin|$uri|$suite|$component|$file|$key"
  done
fi
section unattended-upgrades
if has apt-config; then apt-config dump APT::Periodic::Unattended-Upgrade 2>/dev/null; fi
if has systemctl; then echo "timer=$(systemctl is-enabled apt-daily-upgrade.timer 2>/dev/null)"; fi
section reboot
if [ -e /run/reboot-required ]; then echo pending=yes; cat /run/reboot-required.pkgs 2>/dev/null; else echo pending=no; fi

section confines
sed -n 's/^CapBnd:[[:space:]]*/capabilities=/p' /proc/self/status 2>/dev/null
# shellcheck disable=SC3045 # dash, bash and busybox have -H
echo "open_files=$(ulimit -Hn 2>/dev/null)"
echo "shared_memory_kb=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $2}')"
section disk
for path in /opt/bringup /var/lib/bringup /var/lib/containers; do
  parent=$path
  while [ ! -d "$parent" ]; do parent=${parent%/*}; parent=${parent:-/}; done
  printf '%s %s %s\n' "$path" "$(df -Pk "$parent" 2>/dev/null | awk 'NR == 2 {print $4, $1}')" "$(stat -f -c %T "$parent" 2>/dev/null)"
done
section sysctl
for name in vm.swappiness kernel.numa_balancing net.core.somaxconn; do
  file=/proc/sys/$(printf %s "$name" | tr . /)
  [ -r "$file" ] || continue
  if $asroot test -w "$file"; then access=rw; else access=ro; fi
  printf '%s %s %s\n' "$name" "$access" "$(cat "$file")"
done
section interrupts
set -- /proc/irq/[0-9]*; [ -e "$1" ] || shift; echo "interrupts=$#"
[ "$init" = systemd ] && systemctl is-active --quiet irqbalance.service && echo irqbalance=yes
echo "banned=$(sed -n 's/^ *IRQBALANCE_BANNED_CPULIST=//p' /etc/default/irqbalance 2>/dev/null | tail -n 1 | tr -d "\"'")"
section tuned
if [ "$init" = systemd ] && systemctl is-active --quiet tuned.service; then
  v /etc/tuned/active_profile; echo "profile=$v"
  echo "included=$(sed -n 's/^include=//p' /etc/tuned/bringup/tuned.conf 2>/dev/null)"
fi
section tuning
for file in /etc/sysctl.d/90-bringup.conf /etc/bringup/tuning.json /etc/systemd/system/bringup-tuning.service \
  /etc/systemd/system/irqbalance.service.d/bringup.conf /etc/bringup/irqbalance.env /etc/tuned/bringup/tuned.conf \
  /etc/default/grub.d/90-bringup.cfg; do
  [ -e "$file" ] && echo "file=$file"
done
[ -x /usr/sbin/update-grub ] && [ -d /boot/grub ] && echo update_grub=yes
systemctl is-enabled --quiet bringup-tuning.service 2>/dev/null && echo enabled=yes
section tuning-original; cat /var/lib/bringup/tuning/original.json 2>/dev/null; echo
section model-folder
if [ -n "${model_folder:-}" ]; then
  if $asroot test -f "$model_folder/config.json"; then echo present; else echo absent; fi
fi
section engines
for marker in /opt/bringup/engines/*/.bringup-built /opt/bringup/tools/*/.bringup-built; do
  # an interpreter that a distribution upgrade took away leaves an environment that is no use
  [ -r "$marker" ] && [ -x "${marker%/*}/bin/python" ] && printf '%s %s\n' "$(basename "${marker%/*}")" "$(cat "$marker")"
done
section models
for marker in /var/lib/bringup/models/*/.bringup-complete; do
  [ -r "$marker" ] && printf '%s %s\n' "$(basename "$(dirname "$marker")")" "$(cat "$marker")"
done
section release
if [ -L /opt/bringup/current ]; then
  readlink /opt/bringup/current
  cat /opt/bringup/current/.served 2>/dev/null || echo none
  cat /opt/bringup/current/plan.json 2>/dev/null
fi
section service
if [ "$init" = systemd ]; then
  systemctl show vllm.service --property=LoadState --property=ActiveState --property=UnitFileState 2>/dev/null
elif [ -x /opt/bringup/bin/bringup-host ]; then $asroot /opt/bringup/bin/bringup-host status 2>/dev/null; fi
systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/SystemdVersion=\1/p'
unit=$(systemctl show vllm.service --property=FragmentPath --value 2>/dev/null)
[ -n "$unit" ] && ! grep -q 'Written by bringup' "$unit" 2>/dev/null && echo "Foreign=$unit"
section run-lock
# who holds it, unless that process is gone
v /run/bringup.lock; pid=${v#*'"pid": '}; pid=${pid%%[!0-9]*}
[ -n "$pid" ] && grep -qs bringup.onhost "/proc/$pid/cmdline" && echo "$v"
section service-user; getent passwd vllm 2>/dev/null
section smoke
[ -e /var/lib/bringup/smoke/latest.json ] && cat /var/lib/bringup/smoke/latest.outcome.json 2>/dev/null
section gpu-check; cat /var/lib/bringup/gpu-check.json 2>/dev/null
section end
