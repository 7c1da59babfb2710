#!/bin/bash
# Removes what killed tests left behind: folders and disks of dead hosts, their cgroups, loop devices and bridges.
# Hosts that are up are left alone. (A host that is to be kept while it is off gets a folder elsewhere: boot.sh --work.)
#   tests/host/clean.sh          what is dead
#   tests/host/clean.sh HOST     this host, dead or alive (its name or its folder)
#   tests/host/clean.sh --all    every host of this checkout, dead or alive
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/host/common.sh
. "$here/common.sh"
need_root
runs=$(run_folder)

owner_lives() { # FILE with "PID START"
    local pid start
    [ -s "$1" ] && read -r pid start <"$1" && [ "$(start_of "$pid")" = "$start" ]
}
stop_host() { # FOLDER
    local pid start
    owner_lives "$1/supervisor" || return 0
    read -r pid start <"$1/supervisor"
    kill -TERM "$pid" 2>/dev/null || true
    for _ in {1..250}; do owner_lives "$1/supervisor" || return 0; sleep 0.02; done
    kill -KILL "$pid" 2>/dev/null || true
}
remove_host() { # FOLDER
    local device
    if [ -e "$1/disk.img" ]; then
        losetup -n -O NAME -j "$1/disk.img" | while read -r device; do losetup -d "$device" 2>/dev/null || true; done
    fi
    if [ -s "$1/cgroup" ]; then remove_cgroup "$(cat "$1/cgroup")" || true; fi
    rm -rf --one-file-system "$1"
}

case ${1:-} in
'' | --all)
    for folder in "$runs"/*/; do
        folder=${folder%/}
        [ -d "$folder" ] || continue
        if [ "${1:-}" = --all ]; then
            stop_host "$folder"
        elif ! [ -e "$folder/owner" ] && [ -n "$(find "$folder" -maxdepth 0 -mmin -1)" ]; then
            continue # somebody may be making it just now
        fi
        # "owner" is the test that keeps the folder between two boots
        owner_lives "$folder/supervisor" || { [ -z "${1:-}" ] && owner_lives "$folder/owner"; } || remove_host "$folder"
    done
    ;;
-*) sed -n '/^# *tests/s/^# *//p' "$0" >&2; exit 2 ;;
*)
    case $1 in */*) folder=$1 ;; *) folder=$runs/$1 ;; esac
    [ ! -d "$folder" ] || { stop_host "$folder"; remove_host "$folder"; }
    exit 0
    ;;
esac

# Cgroups whose boot.sh was killed (its pid is in the name).
base=$(cgroup2_mount)
for cgroup in "$base"/stratavore-test-*; do
    [ -d "$cgroup" ] || continue
    pid=${cgroup##*-}
    case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in *boot.sh*) continue ;; esac
    remove_cgroup "$cgroup" || true
done
# Bridges of tests that are gone (the test's pid and start are in the alias).
for net in /sys/class/net/stratanet*; do
    [ -e "$net/ifalias" ] || continue
    read -r pid start <"$net/ifalias" || continue
    [ "$(start_of "$pid")" != "$start" ] || continue
    # A dead host's namespace may be kept a while by connections that nobody answers: its cable goes now.
    for cable in "$net"/brif/*; do ip link del "${cable##*/}" 2>/dev/null || true; done
    ip link del "${net##*/}" 2>/dev/null || true
done
