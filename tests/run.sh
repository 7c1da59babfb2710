#!/usr/bin/env bash
# Everything that is tested, one step after the other, with how long each took.
# Usage: tests/run.sh [STEP…]: all steps, or those named.
set -u
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_INCREMENTAL=0
cargo="${CARGO:-cargo}"
# One set of features for every step, so that nothing is built twice.
with="--locked --features crash-points"
began=$SECONDS failed=0 passed=0 report=

step() { # NAME COMMAND…
  local name=$1 at=$SECONDS; shift
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  printf '\n=== %s: %s\n' "$name" "$*"
  if "$@"; then passed=$((passed + 1)) verdict=ok; else failed=$((failed + 1)) verdict=FAILED; fi
  report+=$(printf '%-10s %-7s %4d s' "$name" "$verdict" $((SECONDS - at)))$'\n'
  [ $verdict = ok ]
}
wanted=("$@")

# What hangs fails, and cargo has named it by then: "has been running for over 60 seconds".
within() { timeout --verbose --kill-after=30 "$@"; }

step setup tests/setup.sh test || exit 1
step format $cargo fmt --all --check
step lint $cargo clippy $with --workspace --all-targets --quiet -- -D warnings
step unit within 1200 $cargo test $with --lib --bins --quiet
step parts within 1200 $cargo test $with --quiet --test rules --test supply --test shim --test api --test engine --test docs
step broker within 900 $cargo test $with --quiet --test broker
# Licences, duplicates and sources are among the parts; this one needs a database from the network, or says that it had none.
step advisories .ci/advisories
step release tests/release.sh
nix_parts() { $cargo build $with --quiet && tests/nix/run.sh; }
step nix nix_parts
step hosts within 2700 tests/hosts/run.sh
# Not how fast it is, but that it is not several times slower than it should be beside the same machine's ceilings.
bench() { $cargo build $with --workspace --quiet && STRATAVORE_BENCH_BUILT=target/debug benches/run.sh --short; }
step bench bench

printf '\n%sall %d s\nsteps: %d passed, %d failed\n' "$report" $((SECONDS - began)) $passed $failed
[ $failed -eq 0 ]
