#!/usr/bin/env bash
# make release in a scratch checkout: what it refuses, what it makes, and what version the build tells from git, from the
# archive, and with values handed in by a packager.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.org GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.org
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
unset STRATAVORE_COMMIT SOURCE_DATE_EPOCH
fail() { echo "release.sh: $*" >&2; exit 1; }

src=$work/src
mkdir "$src"
tar -c --exclude=./target --exclude=./.git --exclude=./tests/frozen . | tar -x -C "$src"
cd "$src"
git init --quiet -b main
# As it is in a checkout, also where these sources are an unpacked archive.
printf '$Format:%%H %%ct$\n' >.commit
sed -i '/^## Unreleased$/,/^## [0-9]/{/^## [0-9]/!d}' CHANGELOG.md
git add -A && git commit --quiet -m start

refused() { # WORDS VERSION
    local said
    if said=$(make --no-print-directory release VERSION="$2" 2>&1); then fail "$2 was released: $said"; fi
    [[ $said == *"$1"* ]] || fail "instead of “$1”: $said"
    git diff --quiet HEAD -- VERSION Cargo.toml Cargo.lock || fail "a refusal left changes"
}
refused "is no version" ""
refused "is no version" "1.2"
refused "does not come after" "$(cat VERSION)"
refused "tells nothing" 98.7.6
sed -i '0,/^## /s//## Unreleased\n\n- A new thing.\n\n## /' CHANGELOG.md
refused "not committed" 98.7.6
git commit --quiet -am "A new thing"
# A package of what is between two releases comes between them.
between=$(.ci/deb --version)
[[ $between =~ ^$(<VERSION)\+git[0-9]{14}\.[0-9a-f]{12}$ ]] && dpkg --compare-versions "$between" gt "$(<VERSION)" &&
    dpkg --compare-versions "$between" lt 98.7.6 || fail "the package's version: $between"
git tag v98.7.6
refused "tag v98.7.6 already" 98.7.6
git tag -d v98.7.6 >/dev/null

# What fails half-way leaves nothing, and can be repeated.
touch target
refused "File exists" 98.7.6
[ "$(git log -1 --format=%s)" = "A new thing" ] && ! git rev-parse --quiet --verify v98.7.6 || fail "half a release stays"
rm target

make --no-print-directory release VERSION=98.7.6 >"$work/said"
[ "$(cat VERSION)" = 98.7.6 ] && [ -z "$(git status --porcelain --untracked-files=no)" ] || fail "$(git status)"
grep -q '^## 98.7.6 (20' CHANGELOG.md && ! grep -q Unreleased CHANGELOG.md || fail "$(head -n 9 CHANGELOG.md)"
[ "$(git cat-file -t v98.7.6)" = tag ] && git cat-file tag v98.7.6 | grep -q '^- A new thing' || fail "$(git show v98.7.6)"
[ "$(cargo metadata --offline --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n "s/^host: //p")" | grep -o '"version":"98.7.6"' | head -n 1)" ] ||
    fail "cargo does not see the version"
[ "$(.ci/deb --version)" = 98.7.6 ] || fail "the package's version: $(.ci/deb --version)"
archive=$PWD/target/stratavore-98.7.6.tar.gz
git archive --format=tar --prefix=stratavore-98.7.6/ v98.7.6 | gzip -n -9 | cmp - "$archive" || fail "the archive is another each time"

# The bill of materials is this release's, and the same each time.
bill=$PWD/target/stratavore-98.7.6.cdx.json
grep -q '"bom-ref": "pkg:cargo/stratavore@98.7.6"' "$bill" && grep -q '"name": "tokio"' "$bill" || fail "$bill: $(head -n 40 "$bill")"
.ci/sbom | cmp - "$bill" || fail "the bill of materials is another each time"

# What cargo would run.
rustc --edition 2024 -o "$work/build" build.rs
told() { "$work/build" | sed -n 's/^cargo::rustc-env=STRATAVORE_VERSION_TEXT=//p'; }
expect="98.7.6 ($(git rev-parse HEAD | cut -c1-12) $(TZ=UTC git log -1 --date=format-local:%F --format=%cd))"
[ "$(told)" = "$expect" ] || fail "from git: $(told) instead of $expect"
mkdir "$work/unpacked"
tar -xf "$archive" -C "$work/unpacked"
cd "$work/unpacked/stratavore-98.7.6"
[ ! -e .git ] && [ "$(told)" = "$expect" ] || fail "from the archive: $(told) instead of $expect"
[ "$(.ci/deb --version)" = 98.7.6 ] || fail "the package's version from the archive: $(.ci/deb --version)"
sed -i '0,/^## /s//## Unreleased\n\n- A new thing.\n\n## /' CHANGELOG.md
[[ $(.ci/deb --version) == 98.7.6+git*.$(cut -c1-12 .commit) ]] || fail "the package's version between releases: $(.ci/deb --version)"
handed=$(STRATAVORE_COMMIT=0123abc SOURCE_DATE_EPOCH=86400 told)
[ "$handed" = "98.7.6 (0123abc 1970-01-02)" ] || fail "handed in: $handed"
# As nixpkgs' stdenv sets it where nobody hands in a date.
nix=$(SOURCE_DATE_EPOCH=315532800 told)
[ "$nix" = "$expect" ] || fail "with nixpkgs' default date: $nix instead of $expect"
rm .commit
nix=$(STRATAVORE_COMMIT=0123abc SOURCE_DATE_EPOCH=315532800 told)
[ "$nix" = "98.7.6 (0123abc)" ] || fail "with nixpkgs' default date alone: $nix"
[ "$(told)" = 98.7.6 ] || fail "from nothing: $(told)"
echo "release: version from git, archive and packager: $expect"
