# Prints what bringup wants to know of a host, as labelled sections. Read-only. Needs no more than a POSIX shell and coreutils;
# what is missing leaves its section empty. It runs as the login user; what only root may read is asked through sudo, if that
# works without a password.
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin"; export PATH
section() { printf '@@bringup %s\n' "$1"; }

uid=$(id -u)
root=none
if [ "$uid" = 0 ]; then root=root; asroot=""
elif sudo -n true 2>/dev/null; then root=sudo; asroot="sudo -n"
else asroot=""; fi

section identity; echo "uid=$uid"; echo "user=$(id -un)"; echo "root=$root"
section clock; date +%s
section os-release; cat /etc/os-release 2>/dev/null
section uname; uname -r; uname -m
section init; if [ -d /run/systemd/system ]; then echo systemd; else cat /proc/1/comm 2>/dev/null; fi
section virtualization; systemd-detect-virt 2>/dev/null
section meminfo; cat /proc/meminfo 2>/dev/null
section cgroup-memory; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null
section cpu-model; grep -m1 '^model name' /proc/cpuinfo 2>/dev/null
section cpu-allowed; grep '^Cpus_allowed_list' /proc/self/status 2>/dev/null
section lscpu; lscpu -p=CPU,CORE,SOCKET,NODE 2>/dev/null
section dmidecode
if ! command -v dmidecode >/dev/null; then echo "dmidecode is not installed"
elif [ "$root" = none ]; then echo "dmidecode needs root's rights"
else $asroot dmidecode -t 4 -t 17 2>&1; fi
section numa
for node in /sys/devices/system/node/node[0-9]*; do
  [ -d "$node" ] || continue
  printf '%s %s %s\n' "${node##*/node}" "$(cat "$node/cpulist" 2>/dev/null)" "$(awk '/MemTotal/ {print $4}' "$node/meminfo" 2>/dev/null)"
done
section pci-display
for dev in /sys/bus/pci/devices/*; do
  [ "$(cat "$dev/vendor" 2>/dev/null)" = 0x10de ] || continue
  case $(cat "$dev/class" 2>/dev/null) in 0x03*) ;; *) continue ;; esac
  driver=$(readlink "$dev/driver" 2>/dev/null)
  printf '%s %s %s %s\n' "${dev##*/}" "$(cat "$dev/device" 2>/dev/null)" "$(cat "$dev/numa_node" 2>/dev/null || echo -1)" "${driver##*/}"
done
section nvidia-smi
timeout 15 nvidia-smi --query-gpu=pci.bus_id,name,memory.total,driver_version --format=csv,noheader,nounits 2>&1
section disk
for path in /opt/bringup /var/lib/bringup; do
  parent=$path
  while [ ! -d "$parent" ]; do parent=${parent%/*}; parent=${parent:-/}; done
  printf '%s %s\n' "$path" "$(df -Pk "$parent" 2>/dev/null | awk 'NR == 2 {print $4, $1}')"
done
section sysctl
for name in vm.swappiness kernel.numa_balancing; do
  file=/proc/sys/$(printf %s "$name" | tr . /)
  [ -r "$file" ] || continue
  if $asroot test -w "$file"; then access=rw; else access=ro; fi
  printf '%s %s %s\n' "$name" "$access" "$(cat "$file")"
done
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
systemctl show vllm.service --property=LoadState --property=ActiveState --property=UnitFileState 2>/dev/null
unit=$(systemctl show vllm.service --property=FragmentPath --value 2>/dev/null)
[ -n "$unit" ] && ! grep -q 'Written by bringup' "$unit" 2>/dev/null && echo "Foreign=$unit"
section service-user; getent passwd vllm 2>/dev/null
section smoke; cat /var/lib/bringup/smoke/latest.json 2>/dev/null
section end
