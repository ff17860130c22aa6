#!/bin/sh
# Makes the pictures in assets/screens out of the real program: a demo runs, and each view is painted while there
# is something to see in it. Needs a C compiler and `script` (util-linux).
#
# usage: assets/screens.sh [FARMHAND]
set -eu

farmhand=${1:-target/release/farmhand}
folder=$(dirname "$0")/screens
size=${SIZE:-120x36}

fail() {
    echo "screens.sh: $1" >&2
    exit 1
}
[ -x "$farmhand" ] || fail "$farmhand is not there; name the program, or build it: cargo build --release"
command -v script >/dev/null || fail "script is not installed"
mkdir -p "$folder"

TMPDIR=$(mktemp -d)
export TMPDIR
demo=
end() {
    [ ! -f "$TMPDIR/pid" ] || kill "$(cat "$TMPDIR/pid")" 2>/dev/null || :
    [ -z "$demo" ] || wait "$demo" 2>/dev/null || :
    rm -rf "$TMPDIR"
}
trap end EXIT
trap 'exit 1' INT TERM

# A dashboard that nobody looks at keeps the demo going.
script -qfc "stty columns 120 rows 36; echo \$\$ >$TMPDIR/pid; exec $farmhand demo" /dev/null </dev/null >/dev/null &
demo=$!

status() { "$farmhand" status --json --connect "$socket" 2>/dev/null; }

# A number of the status, by its key.
number() { status | sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" | head -n 1; }

# Waits until a number of the status is at least so large.
wait_for() {
    tries=0
    until [ "$(number "$1" || :)" -ge "$2" ] 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 1500 ] || fail "$1 never was $2"
        sleep 0.2
    done
}

picture() {
    name=$1
    shift
    "$farmhand" top --connect "$socket" --svg --size "$size" --type colour "$@" >"$folder/$name.svg.new"
    mv "$folder/$name.svg.new" "$folder/$name.svg"
    echo "$folder/$name.svg"
}

tries=0
until socket=$(ls "$TMPDIR"/farmhand-demo-*/run/control.sock 2>/dev/null); do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "the demo did not start"
    sleep 0.2
done

wait_for executed 170               # Somebody else builds by now, too.
wait_for running 2
picture overview --view overview
picture builds --view builds
wait_for executed 230
picture timeline --view timeline
picture machines --view machines
wait_for failed 1                   # One of the later builds has a typo.
picture actions --view actions
picture action --view action --type why
picture cache --view cache
