# Of demo.sh and demo-fleet.sh: how the show is printed. Everything after a "$" is run as it stands there.
# shellcheck shell=bash
if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold='' dim='' plain=''; fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
# show HOST USER COMMAND-LINE: a failure is part of the show.
show() {
    local status=0 where=''
    [ "${1##*/}" = host ] || where="${1##*/} "
    printf '%s%s$ %s%s%s\n' "$dim" "$where" "$plain" "$3" "${dim}$([ "$2" = root ] && echo '   (root)')${plain}"
    if [ "$2" = root ]; then tests/host/enter.sh "$1" bash -c "cd / && $3" 2>&1 || status=$?
    else tests/host/enter.sh -u "$2" "$1" bash -c "cd && $3" 2>&1 || status=$?; fi
    [ $status -eq 0 ] || printf '%s(exit status %s)%s\n' "$dim" "$status" "$plain"
}
