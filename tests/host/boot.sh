#!/bin/bash
# Boots a test host: a real systemd as PID 1 of namespaces of its own, with its own disk, buses, journal and network.
#   tests/host/boot.sh [OPTIONS] NAME
#     --root machine|trixie|sid|DIR   what it boots from; it is never written to (machine = this machine's own root, the default)
#     --bus dbus-daemon|dbus-broker   default dbus-daemon
#     --work DIR       folder of the host, with its disk; default a folder for NAME under target/test-hosts
#     --disk-mb N      size of a new disk, default 512. A small one is soon full.
#     --payload DIR    laid over the root (a copy, made at each boot): what `make install DESTDIR=DIR` made
#     --files DIR      copied onto the disk before the boot: units, configuration
#     --want UNIT      starts this unit, too (repeatable)
#     --bind FROM:TO   shows a folder of this machine inside (repeatable)
#     --without NAME   it lacks this cgroup controller, whatever this machine has
#     --cable BRIDGE,NAME,ADDRESS/LENGTH   its eth0, before its systemd starts; NAME is the cable's end at this machine's BRIDGE
#     --lease          stop the host when standard input ends (so that it goes when its test does)
# Prints "ready PID" when it is up, then stays until the host is off or this is killed (both clean up).
# Killing PID is the host stopping dead; run again with the same folder, it boots again on its disk, with a new boot id.
# tests/host/enter.sh runs commands in it, tests/host/power-cut.sh loses what was not synced, tests/host/clean.sh
# removes what a killed boot.sh left.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/host/common.sh
. "$here/common.sh"

usage() { sed -n '/^# *tests\/host\/boot.sh/,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
all=("$@")
root=machine bus=dbus-daemon work= disk_mb=512 payload= files= lease= without= cable= wants=() binds=()
while [ $# -gt 0 ]; do
    case $1 in
    --root) root=$2; shift ;;
    --bus) bus=$2; shift ;;
    --work) work=$2; shift ;;
    --disk-mb) disk_mb=$2; shift ;;
    --payload) payload=$2; shift ;;
    --files) files=$2; shift ;;
    --want) wants+=("$2"); shift ;;
    --bind) binds+=("$2"); shift ;;
    --without) without=$2; shift ;;
    --cable) cable=$2; shift ;;
    --lease) lease=yes ;;
    -*) usage ;;
    *) break ;;
    esac
    shift
done
[ $# = 1 ] || usage
name=$1
case $name in '' | *[!a-z0-9-]*) fail "a host's name has only a-z, 0-9 and -: '$name'" ;; esac
case $bus in dbus-daemon | dbus-broker) ;; *) usage ;; esac

need_root
for program in unshare:util-linux mke2fs:e2fsprogs losetup:mount setpriv:util-linux ip:iproute2; do
    need_program "${program%%:*}" "${program#*:}"
done
mount2=$(cgroup2_mount)

# Where systemd rules the cgroups, it has to give us ours: a delegated scope.
if [ -d /run/systemd/system ] && [ "$(cat /proc/1/comm)" = systemd ] && [ -z "${STRATAVORE_TEST_SCOPE:-}" ]; then
    STRATAVORE_TEST_SCOPE=1 exec systemd-run --quiet --scope --collect --unit="stratavore-test-$name-$$" \
        -p Delegate=yes -p TasksMax=infinity -- "$0" "${all[@]}"
fi

# -- its root: layers that are only read ------------------------------------------------------------------------------
lower= over=()
case $root in
machine)
    lower=/
    if [ $bus = dbus-broker ] && ! [ -e /usr/lib/systemd/system/dbus-broker.service ]; then
        over+=("$("$here/roots.sh" dbus-broker)")
    fi
    ;;
/*) lower=$root ;;
*) lower=$("$here/roots.sh" "$root") ;;
esac
if [ -n "$payload" ]; then
    payload=$(realpath -e "$payload") || fail "no such payload folder"
    for d in bin sbin lib lib64; do
        [ ! -d "$payload/$d" ] || [ -L "$payload/$d" ] ||
            fail "the payload has a folder /$d, which would hide the root's link to /usr/$d: install with PREFIX=/usr"
    done
    over+=("$payload")
fi
case $lower$work in *[\ ,:\\]*) fail "no blank, comma, colon or backslash in the paths of roots and hosts: $lower $work" ;; esac

# -- its disk ---------------------------------------------------------------------------------------------------------
[ -n "$work" ] || work=$(run_folder)/$name
mkdir -p "$work/root" "$work/scratch"
work=$(realpath "$work")
if [ -e "$work/supervisor" ]; then
    read -r pid start <"$work/supervisor"
    [ "$(start_of "$pid")" != "$start" ] || fail "the host in $work is still up (pid $pid)"
fi
rm -f "$work/init"
echo "$$ $(start_of $$)" >"$work/supervisor"
if [ ! -e "$work/disk.img" ]; then
    journal=16
    [ "$disk_mb" -ge 128 ] || journal=4
    truncate -s "${disk_mb}M" "$work/disk.new"
    mke2fs -q -t ext4 -m 0 -J size=$journal -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$work/disk.new"
    mv "$work/disk.new" "$work/disk.img"
fi
[ -e "$work/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$work/machine-id"
cat /proc/sys/kernel/random/uuid >"$work/boot-id"

# -- its cgroup: a new one for each boot, so that nothing of a dead host is in the way -----------------------------------
if [ -n "${STRATAVORE_TEST_SCOPE:-}" ]; then
    base=$mount2$(own_cgroup)
    mkdir "$base/harness"
    echo $$ >"$base/harness/cgroup.procs"
    cgroup=$base/host
else
    base=$mount2
    cgroup=$base/stratavore-test-$name-$$
fi
hand_down() { # FOLDER: its controllers, to what is below it
    local controller
    for controller in $(cat "$1/cgroup.controllers"); do
        [ "$controller" = "${2:-}" ] || echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || true
    done
}
hand_down "$base"
mkdir "$cgroup"
outer=$cgroup
if [ -n "$without" ]; then
    # Other hosts share what is above: it is left out in a level of this host's own.
    hand_down "$outer" "$without"
    cgroup=$outer/host
    mkdir "$cgroup"
fi
echo "$cgroup" >"$work/cgroup"

namespaces=
watcher=
finish() {
    trap '' EXIT INT TERM HUP
    if [ -n "$namespaces" ]; then kill -KILL "$namespaces" 2>/dev/null || true; wait "$namespaces" 2>/dev/null || true; fi
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
    remove_cgroup "$outer" || true
    rm -f "$work/init" "$work/supervisor"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# -- boot -------------------------------------------------------------------------------------------------------------
inside() {
    read -r pid _ </proc/self/stat # as the machine counts
    echo 0 >"$cgroup/cgroup.procs"
    r=$work/root
    mount -o loop "$work/disk.img" "$work/scratch"
    mkdir -p "$work/scratch/upper" "$work/scratch/work"
    chmod 755 "$work/scratch/upper"
    if [ ${#over[@]} -gt 0 ]; then
        # A copy: a layer must not lie within another one (and the machine's root holds everything), nor change.
        mount -t tmpfs -o mode=755 tmpfs "$r"
        for layer in "${over[@]}"; do cp -rT --preserve=mode,links,timestamps "$layer" "$r"; done
        chmod 755 "$r"
        mkdir -p "$work/scratch/over"
        mount --move "$r" "$work/scratch/over"
        lower=$work/scratch/over:$lower
    fi
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/scratch/upper,workdir=$work/scratch/work" "$r"
    "$here/furnish.sh" "$r" "$name" "$bus" "${wants[@]}"
    [ -z "$files" ] || cp -rT --preserve=mode,links "$files" "$r"
    cp "$work/machine-id" "$r/etc/machine-id"
    mount -t proc proc "$r/proc"
    mount -t sysfs -o ro sysfs "$r/sys"
    # A boot id of its own, and none of the machine's settings can be changed from inside.
    mount --bind "$work/boot-id" "$r/proc/sys/kernel/random/boot_id"
    mount -o remount,bind,ro "$r/proc/sys/kernel/random/boot_id"
    for at in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$r/$at"; done
    chmod 1777 "$r/tmp"
    for device in null zero full random urandom tty; do
        : >"$r/dev/$device"
        mount --bind "/dev/$device" "$r/dev/$device"
    done
    mkdir "$r/dev/pts" "$r/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$r/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$r/dev/shm"
    ln -s pts/ptmx "$r/dev/ptmx"
    ln -s /proc/self/fd "$r/dev/fd"
    for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "$r/dev/${n#*:}"; done
    for b in "${binds[@]}"; do
        if [ -d "${b%%:*}" ]; then mkdir -p "$r/${b#*:}"; else mkdir -p "$(dirname "$r/${b#*:}")"; : >>"$r/${b#*:}"; fi
        mount --bind "${b%%:*}" "$r/${b#*:}"
    done
    ip link set lo up
    if [ -n "$cable" ]; then
        IFS=, read -r bridge end address <<<"$cable"
        # That of an earlier boot goes with its namespace, which may take a moment.
        nsenter --net="/proc/$supervisor/ns/net" ip link del "$end" 2>/dev/null || true
        # The same hardware address at each boot, as real cards have it: others remember it.
        IFS=./ read -r a b c d _ <<<"$address"
        ip link add eth0 address "$(printf '02:00:%02x:%02x:%02x:%02x' "$a" "$b" "$c" "$d")" type veth \
            peer name "$end" netns "/proc/$supervisor/ns/net"
        nsenter --net="/proc/$supervisor/ns/net" ip link set "$end" master "$bridge" up
        ip address add "$address" dev eth0
        ip link set eth0 up
    fi
    # The namespace of cgroups begins here, where only this process is: unshare stays outside.
    exec unshare --cgroup bash -euc '
        mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
        echo "$2" >"$3/init"
        cd "$1"
        pivot_root . mnt
        umount -l /mnt
        # As on a machine: what one of its namespaces mounts is seen in the others (LoadCredential= wants it).
        mount --make-rshared /
        # As a kernel starts its first program, whatever the limits of who runs the tests: as far as we may.
        ulimit -Sn 1024
        for limit in "n 524288" "u unlimited" "c unlimited"; do ulimit -H$limit 2>/dev/null || true; done
        ulimit -Su "$(ulimit -Hu)"
        { echo 0 >/proc/self/oom_score_adj; } 2>/dev/null || true
        exec env -i container=stratavore PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            /lib/systemd/systemd --unit=host.target </dev/null' boot "$r" "$pid" "$work"
}
export -f inside
exec 8<&0
supervisor=$$
setpriv --pdeathsig KILL unshare --mount --pid --fork --ipc --uts --net --kill-child bash -euc "$(
    declare -p here work name bus lower files cgroup cable supervisor wants binds over)
inside" >"$work/boot.log" 2>&1 </dev/null 8<&- &
namespaces=$!

if [ -n "$lease" ]; then
    (
        trap - EXIT INT TERM HUP
        cat >/dev/null
        kill -TERM $$
    ) <&8 >/dev/null 2>&1 &
    watcher=$!
fi
exec 8<&-

gave_up() { # WHY
    echo "boot.sh: the host '$name' did not come up: $1" >&2
    sed 's/^/  boot: /' "$work/boot.log" >&2
    if [ -n "${init:-}" ] && [ -d "/proc/$init" ]; then
        "$here/enter.sh" "$work" timeout 5 systemctl --no-pager --plain list-units --failed >&2 || true
        "$here/enter.sh" "$work" timeout 5 systemctl --no-pager list-jobs >&2 || true
        "$here/enter.sh" "$work" timeout 5 journalctl --no-pager -b -n 40 >&2 || true
    fi
    exit 1
}
init=
deadline=$((SECONDS + 60))
until [ -n "$init" ] && [ "$(cat "/proc/$init/comm" 2>/dev/null)" = systemd ] && [ -S "/proc/$init/root/run/systemd/private" ]; do
    kill -0 "$namespaces" 2>/dev/null || gave_up "its namespaces are gone"
    [ $SECONDS -lt $deadline ] || gave_up "no systemd after 60 s"
    [ ! -s "$work/init" ] || read -r init <"$work/init"
    sleep 0.02
done
mkdir -p "$cgroup/test-exec"
state=$("$here/enter.sh" "$work" timeout 60 systemctl is-system-running --wait 2>/dev/null) || true
[ "$state" = running ] || gave_up "systemctl is-system-running says '$state'"
echo "ready $init"
wait "$namespaces" || true
