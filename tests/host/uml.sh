#!/bin/bash
# Boots a machine with a kernel of its own (User-Mode Linux: cgroup v2 with cpu, io, memory and pids), runs a script in
# it as root, and powers it off. Prints the script's output and ends with its exit status.
#   tests/host/uml.sh [OPTIONS] SCRIPT           a bash script; - reads it from standard input
#     --root trixie|sid   what it boots (default trixie). Its disk starts out the same each time.
#     --bus dbus-daemon|dbus-broker
#     --payload DIR       copied over the root before the boot: what `make install DESTDIR=DIR` made
#     --files DIR         copied over the root after that: units, configuration
#     --want UNIT         starts this unit, too (repeatable)
#     --mem SIZE          default 1G
#     --timeout SECONDS   for everything, default 180; exit status 124
# In the script, /mnt/share is a folder of this machine that is gone afterwards. Code runs about ten times slower there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/host/common.sh
. "$here/common.sh"

usage() { sed -n '/^# *tests\/host\/uml.sh/,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
root=trixie bus=dbus-daemon payload= files= mem=1G limit=180 wants=()
while [ $# -gt 0 ]; do
    case $1 in
    --root) root=$2; shift ;;
    --bus) bus=$2; shift ;;
    --payload) payload=$2; shift ;;
    --files) files=$2; shift ;;
    --want) wants+=("$2"); shift ;;
    --mem) mem=$2; shift ;;
    --timeout) limit=$2; shift ;;
    -) break ;;
    -*) usage ;;
    *) break ;;
    esac
    shift
done
[ $# = 1 ] || usage
need_root
need_program linux.uml user-mode-linux
image=$("$here/roots.sh" "$root.ext4")

mkdir -p "$(run_folder)"
work=$(mktemp -d "$(run_folder)/uml-$$-XXXXXX")
echo "$$ $(start_of $$)" >"$work/supervisor"
machine=
finish() {
    trap '' EXIT INT TERM HUP
    if [ -n "$machine" ]; then kill -KILL "$machine" 2>/dev/null || true; wait "$machine" 2>/dev/null || true; fi
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

share=$work/share
mkdir "$share"
if [ "$1" = - ]; then cat >"$share/script"; else cp "$1" "$share/script"; fi
cp "$here/furnish.sh" "$share/furnish.sh"
[ -z "$payload" ] || cp -rT --preserve=mode,links "$payload" "$share/over"
[ -z "$files" ] || cp -rT --preserve=mode,links "$files" "$share/over"
printf '%s\n' "$bus" test-script.service "${wants[@]}" >"$share/arguments"

# The first program of the machine: it makes the root a test host, then becomes systemd.
cat >"$share/init" <<'EOT'
#!/bin/bash
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /mnt/share
[ ! -d over ] || cp -rT --preserve=mode,links over /
mapfile -t arguments <arguments
bash furnish.sh / uml "${arguments[@]}"
mount -t proc proc /proc
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
umount /proc
cat >/etc/systemd/system/test-script.service <<'EOU'
[Unit]
Description=The test's script
After=basic.target dbus.service dbus-broker.service systemd-logind.service systemd-user-sessions.service polkit.service
[Service]
Type=exec
WorkingDirectory=/root
Environment=HOME=/root LANG=C.UTF-8 TERM=dumb
OOMPolicy=continue
ExecStart=/bin/bash /mnt/share/run
EOU
exec env -i PATH="$PATH" TERM=dumb /lib/systemd/systemd --unit=host.target
EOT
cat >"$share/run" <<'EOT'
# Output goes to a file of the real machine, and from time to time for sure: a machine that hangs has told so far.
(while sleep 2; do sync -d /mnt/share/output; done) &
status=0
bash /mnt/share/script >/mnt/share/output 2>&1 </dev/null || status=$?
[ $status = 0 ] || journalctl -b --no-pager -o short-monotonic -n 60 >/mnt/share/journal
echo $status >/mnt/share/status
sync
echo o >/proc/sysrq-trigger
sleep 60
EOT
chmod 755 "$share/init"

# Its memory is a file: in memory, and where programs may be mapped.
TMPDIR=/tmp
for folder in /dev/shm /tmp /var/tmp; do
    case ,$(findmnt -n -o OPTIONS -T $folder), in *,noexec,*) ;; *) TMPDIR=$folder; break ;; esac
done
export TMPDIR
# Where registers are larger than UML knows, a small library helps it; see there.
preload=()
if grep -qwE 'avx512f|amx_tile' /proc/cpuinfo; then
    need_program gcc gcc
    library=$(cache_folder)/uml-xstate.so
    if [ ! "$library" -nt "$here/uml-xstate.c" ]; then
        gcc -shared -fPIC -O2 -Wall -Werror -o "$library.$$" "$here/uml-xstate.c"
        mv "$library.$$" "$library"
    fi
    preload=(env "LD_PRELOAD=$library")
fi
# In a PID namespace of its own, so that none of its processes outlives it.
setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc \
    timeout -k 5 "$limit" "${preload[@]}" linux.uml "mem=$mem" "ubd0=$work/disk.cow,$image" root=/dev/ubda rootfstype=ext4 rw \
    init=/usr/local/sbin/test-init "test_share=$share" "uml_dir=$work/" umid=machine con=null con0=fd:0,fd:1 console=tty0 \
    quiet </dev/null >"$work/console" 2>&1 &
machine=$!
outer=0
wait "$machine" || outer=$?
machine=

[ ! -e "$share/output" ] || cat "$share/output"
if [ -s "$share/status" ]; then
    status=$(cat "$share/status")
    if [ "$status" != 0 ]; then
        echo "uml.sh: the script ended with $status; the end of the machine's journal:" >&2
        sed 's/^/  journal: /' "$share/journal" >&2 || true
    fi
    exit "$status"
fi
echo "uml.sh: the script did not end$([ "$outer" != 124 ] && [ "$outer" != 137 ] || echo " within $limit s"); the console:" >&2
tail -n 100 "$work/console" | tr -d '\r' | sed 's/^/  console: /' >&2
[ "$outer" = 124 ] || [ "$outer" = 137 ] || exit 125
exit 124
