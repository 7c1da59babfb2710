# shellcheck shell=bash
# What the scripts of this folder have in common. Sourced, not run.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

cache_folder() { (cd "$project" && realpath -m "${STRATAVORE_TEST_CACHE:-target/test-roots}"); }
# Where hosts keep their disks. One folder per host; clean.sh removes those of dead ones.
run_folder() { (cd "$project" && realpath -m "${STRATAVORE_TEST_RUN:-target/test-hosts}"); }

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || fail "test hosts need root: namespaces, mounts and cgroups. Run it with sudo."
}

need_program() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || fail "$1 is missing. Get it with: tests/setup.sh test (Debian package $2)"
}

cgroup2_mount() {
    local at
    at=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
    [ -n "$at" ] || fail "no cgroup v2 is mounted on this machine. Mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
    echo "$at"
}

own_cgroup() { sed -n 's/^0:://p' /proc/self/cgroup; }

# A process is named by pid and start time: a pid alone is used again some day.
start_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

# Removes a cgroup with all below it. What has just been killed may take a moment to be gone.
remove_cgroup() {
    local try
    for try in {1..100}; do
        [ -d "$1" ] || return 0
        find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$1" ] || return 0
        [ ! -e "$1/cgroup.kill" ] || echo 1 >"$1/cgroup.kill" 2>/dev/null || true
        sleep 0.05
    done
    echo "$(basename "$0"): could not remove the cgroup $1 after $try tries" >&2
    return 1
}
