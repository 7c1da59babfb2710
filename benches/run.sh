#!/bin/bash
# Measures what was built on a disposable host: the table to the terminal, the same to target/bench.json.
#   benches/run.sh [--short] [PART…]    parts: store audit postgres outbox launch live; all if none is named (with --short not postgres)
# --short measures less, takes about a minute and fails where something is several times worse than its goal.
# STRATAVORE_BENCH_BUILT names the folder with the programs, target/release if it is not set.
set -eu
cd "$(dirname "$0")/.."
built=${STRATAVORE_BENCH_BUILT:-target/release}
case " $* " in *" --short "*) json=target/bench-short.json ;; *) json=target/bench.json ;; esac
work=$(mktemp -d "${TMPDIR:-/tmp}/stratavore-bench.XXXXXX")
host=
finish() {
    [ -z "$host" ] || { kill "$host" 2>/dev/null || true; wait "$host" 2>/dev/null || true; }
    rm -rf "$work"
}
trap finish EXIT
for program in stratavored stratavorectl stratavore-agent stratavore-shim; do
    [ -x "$built/$program" ] || { echo "bench: $built/$program is missing; build it first, or call: make bench" >&2; exit 1; }
    install -D "$built/$program" "$work/built/$program"
    strip --strip-debug "$work/built/$program"
done
make --no-print-directory -s install DESTDIR="$work/payload" BUILT="$work/built"
install -D "$built/stratavore-bench" "$work/payload/usr/bin/stratavore-bench"
coproc BOOT { exec tests/host/boot.sh --work "$work/host" --payload "$work/payload" --disk-mb 4096 \
    --want polkit.service --want stratavored.service bench 2>&1; }
host=$BOOT_PID
ready=
while read -r line <&"${BOOT[0]}"; do
    case $line in ready*) ready=yes; break ;; *) echo "$line" >&2 ;; esac
done
[ -n "$ready" ] || { echo "bench: the disposable host did not boot" >&2; exit 1; }
tests/host/enter.sh "$work/host" systemctl start stratavored
status=0
tests/host/enter.sh "$work/host" stratavore-bench "$@" >"$work/bench.json" || status=$?
mkdir -p target
[ ! -s "$work/bench.json" ] || cp "$work/bench.json" "$json"
exit $status
