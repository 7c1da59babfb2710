#!/bin/bash
# Runs a command in a booted test host.
#   tests/host/enter.sh HOST COMMAND…            as root. HOST is its name or its folder
#   tests/host/enter.sh -u USER HOST COMMAND…    as USER, with a clean environment
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/host/common.sh
. "$here/common.sh"
user=
if [ "${1:-}" = -u ]; then user=$2; shift 2; fi
[ $# -ge 2 ] || { sed -n '/^# *tests/s/^# *//p' "$0" >&2; exit 2; }
case $1 in */*) work=$1 ;; *) work=$(run_folder)/$1 ;; esac
shift
[ -s "$work/init" ] || fail "no host is up in $work"
read -r pid <"$work/init"
read -r cgroup <"$work/cgroup"
# The command dies and is frozen with the host: it is put into the host's own cgroup.
echo $$ >"$cgroup/test-exec/cgroup.procs"
as=()
[ -z "$user" ] || as=(setpriv --reuid="$user" --regid="$user" --init-groups)
home=/root
[ -z "$user" ] || home=/home/$user
[ "$user" != root ] || home=/root
exec nsenter -t "$pid" -m -p -C -u -i -n -- env -i "HOME=$home" "USER=${user:-root}" "LOGNAME=${user:-root}" SHELL=/bin/bash \
    LANG=C.UTF-8 TERM="${TERM:-dumb}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${as[@]}" "$@"
