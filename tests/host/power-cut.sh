#!/bin/bash
# A power cut: the host stops dead, and what it had not synced is gone. Boot it again with boot.sh and the same folder.
#   tests/host/power-cut.sh HOST        its name or its folder
# All its processes are frozen at once, its file system is shut down without writing anything more (not even its
# journal), and then everything is killed: no process lives to see a failed write, and no copy is torn.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/host/common.sh
. "$here/common.sh"
[ $# = 1 ] || { sed -n '/^# *tests/s/^# *//p' "$0" >&2; exit 2; }
need_root
need_program perl perl-base
case $1 in */*) work=$1 ;; *) work=$(run_folder)/$1 ;; esac
[ -s "$work/init" ] || fail "no host is up in $work"
read -r init <"$work/init"
read -r cgroup <"$work/cgroup"
device=$(losetup -n -O NAME -j "$work/disk.img" | head -n 1)
[ -n "$device" ] || fail "the disk of $work is not mounted"

echo 1 >"$cgroup/cgroup.freeze"
# FS_IOC_SHUTDOWN without a flush of the log: _IOR('X', 125, __u32), 2
unshare --mount bash -euc '
    mount "$1" "$2"
    for try in {1..40}; do grep -qx "frozen 1" "$3/cgroup.events" && break; sleep 0.01; done
    perl -e "open(my \$f, q(<), \$ARGV[0]) or die qq(\$!\n); my \$how = pack(q(L), 2); ioctl(\$f, 0x8004587d, \$how) or die qq(\$!\n)" "$2"
' cut "$device" "$work/scratch" "$cgroup" || { echo 0 >"$cgroup/cgroup.freeze"; fail "could not shut the file system of $work down"; }
kill -KILL "$init"
for _ in {1..500}; do
    [ -e "$work/supervisor" ] || exit 0
    sleep 0.02
done
fail "the host in $work was killed, but is not cleaned up after 10 s"
