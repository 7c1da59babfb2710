#!/usr/bin/env bash
# Builds the programs as the host tests need them (with crash points), lays out what `make install` installs and runs
# the tests. Arguments go to the test binary: tests/hosts/run.sh endings::
set -eu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
$cargo build --locked --features crash-points --quiet
$cargo test --locked --features crash-points --test hosts --quiet --no-run
rm -rf target/test-payload target/test-built
mkdir -p target/test-built
for program in stratavored stratavorectl stratavore-agent stratavore-shim; do
    strip -o "target/test-built/$program" "target/debug/$program"
done
make --no-print-directory -s install BUILT=target/test-built DESTDIR="$PWD/target/test-payload"
# Former releases, as they were: later programs must work with theirs.
for frozen in frozen:0.1.0 fleet:0.1.0-fleet; do
    at=${frozen%%:*}
    rm -rf "target/test-payload-$at" "target/test-$at"
    mkdir -p "target/test-$at"
    tar -xJf "tests/frozen/${frozen#*:}-x86_64.tar.xz" -C "target/test-$at"
    make --no-print-directory -s install BUILT="target/test-$at" DESTDIR="$PWD/target/test-payload-$at"
done
tests/host/roots.sh trixie >/dev/null
tests/host/roots.sh sid >/dev/null
# Two cores: more hosts at a time only wait for each other.
$cargo test --locked --features crash-points --test hosts -- --test-threads "${STRATAVORE_TEST_THREADS:-2}" "$@"
