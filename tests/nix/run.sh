#!/usr/bin/env bash
# The flake and the NixOS module without a network: a stand-in for nixpkgs (tests/nix/stub) takes its place. All that is
# evaluated is read from a copy, and Nix keeps its store in a scratch folder.
# Usage: tests/nix/run.sh [--update]: with it, options.md, access.rules and drop-ins are made anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD
work=$(mktemp -d)
running=
trap '[ -z "$running" ] || kill $running; chmod -R u+w "$work"; rm -rf "$work"' EXIT
fail() { echo "nix: $*" >&2; exit 1; }
for program in nix python3 duk promtool systemd-analyze; do
    command -v $program >/dev/null || fail "$program is missing: tests/setup.sh test installs it"
done
built=${STRATAVORE_NIX_BUILT:-$here/target/debug}
[ -x "$built/stratavored" ] || fail "$built/stratavored is missing: cargo build --locked makes it"

unset NIX_PATH NIX_REMOTE STRATAVORE_COMMIT SOURCE_DATE_EPOCH
export HOME=$work/home XDG_CACHE_HOME=$work/cache
export NIX_STORE_DIR=$work/nix/store NIX_STATE_DIR=$work/nix/var NIX_LOG_DIR=$work/nix/log NIX_CONF_DIR=$work/nix/etc
export NIX_CONFIG='extra-experimental-features = nix-command flakes
build-users-group =
sandbox = false
flake-registry ='
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.org GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.org
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
mkdir -p "$HOME" "$NIX_STORE_DIR" "$NIX_CONF_DIR" "$work/src"
tar -c --exclude=./target --exclude=./.git --exclude=./tests/frozen . | tar -x -C "$work/src"
cd "$work/src"
git init --quiet -b main
git add -A
git commit --quiet -m start

echo "nix: every file parses"
find . -name '*.nix' | while read -r file; do nix-instantiate --parse "$file" >/dev/null || fail "$file does not parse"; done

echo "nix: flake.nix and flake.lock agree"
before=$(sha256sum flake.lock)
agrees() { nix flake metadata --offline --no-update-lock-file "$1" >"$work/said" 2>&1; }
agrees . || fail "flake.lock is not what flake.nix asks for: $(cat "$work/said")"
nix flake lock --offline . >"$work/said" 2>&1 || fail "$(cat "$work/said")"
[ "$(sha256sum flake.lock)" = "$before" ] || fail "flake.lock changes when it is locked anew"
mkdir "$work/other"
sed 's/nixos-26\.05/nixos-25.11/' flake.nix >"$work/other/flake.nix"
cp flake.lock "$work/other"
if agrees "path:$work/other"; then fail "a lock for another nixpkgs is not noticed"; fi

echo "nix: all outputs, both systems"
stub=(--offline --no-write-lock-file --override-input nixpkgs "path:$work/src/tests/nix/stub")
check() { nix flake check --no-build "${stub[@]}" "$1" >"$work/said" 2>&1; }
check . || fail "nix flake check: $(cat "$work/said")"
output() { nix eval "${stub[@]}" "$@" 2>"$work/said" || fail "$* : $(cat "$work/said")"; }
for system in x86_64-linux aarch64-linux; do
    output --json ".#checks.$system" --apply 'builtins.mapAttrs (_: one: one.drvPath)' |
        python3 -c 'import json, sys; assert set(json.load(sys.stdin)) == {"module", "package", "vm-fleet", "vm-host", "vm-switch"}'
    for test in vm-host vm-fleet vm-switch; do
        output --raw ".#checks.$system.$test.script" | python3 -c 'import sys; compile(sys.stdin.read(), sys.argv[1], "exec")' $test
    done
    for one in "packages.$system.default" "packages.$system.stratavore" "devShells.$system.default" "formatter.$system"; do
        output --raw ".#$one.drvPath" >/dev/null
    done
    [[ $(output --raw ".#apps.$system.default.program") == */bin/stratavorectl ]] || fail "the app is not stratavorectl"
done
output --raw ".#overlays.default" --apply \
    'overlay: ((import ./tests/nix/stub/pkgs.nix (import ./tests/nix/stub/lib.nix) "x86_64-linux") // (overlay (import ./tests/nix/stub/pkgs.nix (import ./tests/nix/stub/lib.nix) "x86_64-linux") { })).stratavore.version' \
    --impure >"$work/version"
[ "$(cat "$work/version")" = "$(cat VERSION)" ] || fail "the overlay's package has another version"
# What does not evaluate is noticed, also behind a host's options.
sed -i 's/openFirewall = true/openFirewal = true/' tests/nix/everything.nix
git commit --quiet -am wrong
if check .; then fail "a wrong option is not noticed by nix flake check"; fi
grep -q "openFirewal' does not exist" "$work/said" || fail "$(cat "$work/said")"
git revert --no-edit HEAD >/dev/null

echo "nix: version and revision"
# Nix tells no revision of what it locks otherwise than is written, so here it is written.
nix flake lock --offline --override-input nixpkgs "path:$work/src/tests/nix/stub" . >/dev/null 2>&1
git commit --quiet -am "another lock"
told() { nix eval --offline --raw .#packages.x86_64-linux.stratavore.env --apply "env: env.$1 or \"nothing\"" 2>"$work/said" || fail "$(cat "$work/said")"; }
commit=$(git rev-parse --short=12 HEAD)
[ "$(told STRATAVORE_COMMIT)" = "$commit" ] || fail "the commit handed to build.rs is $(told STRATAVORE_COMMIT), not $commit"
[ "$(told SOURCE_DATE_EPOCH)" = "$(git log -1 --format=%ct)" ] || fail "the date handed to build.rs is $(told SOURCE_DATE_EPOCH)"
echo >>README.md
[[ $(told STRATAVORE_COMMIT) =~ ^(nothing|$commit-dirty)$ ]] || fail "a checkout with changes tells $(told STRATAVORE_COMMIT)"
git reset --quiet --hard HEAD~

echo "nix: what the package installs"
# Its own commands, with programs that are there.
out=$work/package
triple=$(uname -m)-unknown-linux-gnu
mkdir -p "target/$triple/release"
for program in stratavored stratavorectl stratavore-agent stratavore-shim; do ln -s "$built/$program" "target/$triple/release/"; done
cat >"$work/phases" <<'END'
set -euo pipefail
runHook() { :; }
substituteInPlace() { # FILE… --replace-fail OLD NEW
    local files=()
    while [ "$1" != --replace-fail ]; do files+=("$1"); shift; done
    for file in "${files[@]}"; do
        grep -qF -- "$2" "$file" || { echo "$file has no $2" >&2; exit 1; }
        python3 -c 'import sys; f, a, b = sys.argv[1:]; t = open(f).read(); open(f, "w").write(t.replace(a, b))' "$file" "$2" "$3"
    done
}
END
phases=".#packages.$(uname -m)-linux.stratavore"
{ cat "$work/phases"; output --raw "$phases.installPhase"; echo; output --raw "$phases.installCheckPhase"; } >"$work/build"
out=$out bash "$work/build" >"$work/said" 2>&1 || fail "the package's own phases: $(cat "$work/said")"
make --silent install PREFIX=/usr DESTDIR="$work/usual" BUILT="$built"
diff <(cd "$work/usual/usr" && find . -type f | sort) <(cd "$out" && find . -type f | sort) || fail "the package has other files than make install"

echo "nix: the module"
python3 - <<'END'
import re
def blocks(heading):
    part = open("README.md").read().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```nix\n(.*?)```", part, re.S)
flake, module = blocks("NixOS")
(member,) = blocks("A fleet")
open("tests/nix/readme.nix", "w").write(module)
open("tests/nix/readme-fleet.nix", "w").write(member)
open("tests/nix/readme-flake.nix", "w").write(flake)
END
nix-instantiate --parse tests/nix/readme-flake.nix >/dev/null
nix-instantiate --eval --strict --json --read-write-mode tests/nix/facts.nix --argstr package "$out" >"$work/facts.json" 2>"$work/said" ||
    fail "$(cat "$work/said")"
touch "$work/empty.toml"
"$built/stratavored" --config "$work/empty.toml" --print-config >"$work/defaults.toml"
python3 tests/nix/check.py "$work" "$here" "$@" || fail "the module is not as it should be"

echo "nix: settings are looked at by the programs themselves"
build() { # HOST FILE: the commands by which the system makes this file
    local dir; dir=$(mktemp -d -p "$work")
    (cd "$dir" && out=$dir/made bash -e "$work/etc/$1/$2" >"$work/said" 2>&1)
}
for host in plain everything fleet readme readme-fleet; do
    for file in stratavored.toml agent.toml; do build $host $file || fail "$host: $file: $(cat "$work/said")"; done
done
for told in 'everything:2 projects, 3 budgets, the fleet.s quota; what is not declared is removed' \
    'readme:1 project, 1 budget; what is not declared is left alone'; do
    build "${told%%:*}" declared.toml || fail "${told%%:*}: declared.toml: $(cat "$work/said")"
    grep -q "declared.toml is right: ${told#*:}\.$" "$work/said" || fail "$(cat "$work/said")"
done
if build misspelt declared.toml; then fail "a wrong value of declared.toml is not noticed"; fi
grep -q 'declared.toml:[0-9]*: projects.web.memory_max = "1Q": ' "$work/said" || fail "$(cat "$work/said")"
for file in stratavored.toml agent.toml; do
    if build misspelt $file; then fail "a misspelt key of $file is not noticed"; fi
    grep -q "$file:[0-9]*: .*did you mean" "$work/said" || fail "$(cat "$work/said")"
done

echo "nix: units with their drop-ins"
stand_in() { # UNIT KEY PROGRAM: what this unit starts from a package that is not built
    local path; path=$(sed -n "s|^$2=\(/[^ ]*/${3##*/}\)\( .*\)*$|\1|p" "$1")
    mkdir -p "${path%/*}"
    ln -sf "$3" "$path"
}
for host in plain everything; do
    units=$work/root/$host/etc/systemd/system
    stand_in "$units/stratavored.service" ExecReload /bin/kill
    stand_in "$units/stratavore-catalog.service" ExecStart /bin/journalctl
    SYSTEMD_UNIT_PATH=$units: systemd-analyze verify --man=no stratavored.service stratavore-agent.service stratavore-agent.socket \
        stratavore-apply.service stratavore.slice stratavore-catalog.service >"$work/said" 2>&1 || fail "$host: $(cat "$work/said")"
    # What is wrong with our own, where verify itself makes no more than a line of it.
    if grep stratavore "$work/said"; then fail "$host: see above"; fi
    for unit in stratavored stratavore-apply; do
        systemd-analyze security --offline=true --root="$work/root/$host" --threshold=12 --no-pager $unit.service >"$work/said" 2>&1 ||
            fail "$host: $(tail -n 3 "$work/said")"
    done
done
# The threshold is one that a sandbox with a hole in it does not reach.
printf '[Service]\nProtectSystem=no\nNoNewPrivileges=no\nPrivateUsers=no\nSystemCallFilter=\n' >"$work/root/plain/etc/systemd/system/stratavored.service.d/zz.conf"
if systemd-analyze security --offline=true --root="$work/root/plain" --threshold=12 --no-pager stratavored.service >/dev/null 2>&1; then
    fail "a drop-in that takes the sandbox away is not noticed"
fi

echo "nix: polkit's engine takes the rules"
{
    echo 'var rule; var polkit = { Result: { YES: "yes", NOT_HANDLED: null }, addRule: function (made) { rule = made; } };'
    cat "$here/tests/nix/access.rules" tests/nix/access.js
} >"$work/access.js"
duk "$work/access.js" >"$work/said" 2>&1 || fail "$(cat "$work/said")"
promtool check config "$work/prometheus.yml" >"$work/said" 2>&1 || fail "$(cat "$work/said")"

echo "nix: what runs is no garbage"
mkdir "$work/program"
cp /bin/sleep "$work/program/stratavore-shim"
kept=$(nix-store --add "$work/program" 2>/dev/null)
"$kept/stratavore-shim" 600 &
running=$!
# Once it has been exec'd.
until [ "$(readlink "/proc/$running/exe")" = "$kept/stratavore-shim" ]; do :; done
nix-store --gc --print-roots 2>/dev/null | grep -q "^/proc/$running/.* -> $kept\$\|{.*} -> $kept\$" ||
    fail "a running program is no root: $(nix-store --gc --print-roots 2>&1)"
nix-store --gc >/dev/null 2>&1
[ -x "$kept/stratavore-shim" ] || fail "garbage collection took a program that runs"
kill $running
wait $running 2>/dev/null || true
running=
nix-store --gc >/dev/null 2>&1
[ ! -e "$kept" ] || fail "nothing was collected, so this shows nothing"
echo "nix: ok"
