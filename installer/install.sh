#!/bin/sh
# Installs Farmhand from this checkout, or removes it. See usage below.
set -eu

usage() {
    cat <<'USAGE'
usage: installer/install.sh [--prefix DIR] [--service] [uninstall]

Builds the release binary and installs it with its shell completions and manual pages.
Running it again updates what is there.

  --prefix DIR   where to install (default: ~/.local, or /usr/local as root)
  --service      also install and start a systemd user service
  uninstall      remove what was installed below the prefix, and its service;
                 settings and data are kept, and named

examples:
  installer/install.sh --service
  installer/install.sh --prefix /opt/farmhand
  installer/install.sh uninstall
USAGE
}

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if [ "$(id -u)" -eq 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
service=no
action=install

while [ $# -gt 0 ]; do
    case $1 in
        --prefix)
            [ $# -ge 2 ] || fail "--prefix needs a directory" "installer/install.sh --help"
            prefix=$2
            shift
            [ -n "$prefix" ] || fail "--prefix needs a directory" "installer/install.sh --help"
            ;;
        --prefix=?*) prefix=${1#--prefix=} ;;
        --service) service=yes ;;
        uninstall) action=uninstall ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown argument: $1" "installer/install.sh --help" ;;
    esac
    shift
done
case $prefix in
    /*) ;;
    *) prefix=$PWD/$prefix ;;
esac

binary=$prefix/bin/farmhand
bash_completion=$prefix/share/bash-completion/completions/farmhand
zsh_completion=$prefix/share/zsh/site-functions/_farmhand
fish_completion=$prefix/share/fish/vendor_completions.d/farmhand.fish
man_dir=$prefix/share/man/man1
settings_example=$prefix/share/doc/farmhand/farmhand.toml
pages='serve top demo status machines pause drain resume slots actions action action-show action-fetch action-kill
action-rerun client doctor bench completions man'
# Which directories were made, so that they can go again.
directories=$prefix/share/doc/farmhand/directories
unit_dir=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
unit=$unit_dir/farmhand.service

# Makes $1 and what is missing above it, and adds their names to $made.
make_directory() {
    [ ! -d "$1" ] || return 0
    make_directory "$(dirname -- "$1")"
    mkdir -- "$1"
    made="$made$1
"
}

# Makes the directories that the files named will be in.
make_directories_of() {
    made=
    for file in "$directories" "$@"; do make_directory "$(dirname -- "$file")"; done
    printf '%s' "$made" >>"$directories"
}

# Removes the directories that were made and are empty, inner ones first.
drop_directories() {
    [ -e "$directories" ] || return 0
    made=$(cat "$directories")
    rm -f "$directories"
    printf '%s\n' "$made" | sed '1!G;h;$!d' | while IFS= read -r directory; do
        rmdir -- "$directory" 2>/dev/null || true
    done
}

# Writes stdin to $1 with mode $2, whole or not at all.
put() {
    temporary=$1.new.$$
    cat >"$temporary"
    chmod "$2" "$temporary"
    mv -f "$temporary" "$1"
    say "installed $1"
}

# Writes to $1 what the installed program says when it is called with the other arguments.
put_told() {
    target=$1
    shift
    text=$("$binary" "$@")
    printf '%s\n' "$text" | put "$target" 644
}

have_user_systemd() {
    command -v systemctl >/dev/null 2>&1 && systemctl --user show-environment >/dev/null 2>&1
}

install_files() {
    command -v cargo >/dev/null 2>&1 || fail "cargo is not installed" "get Rust from https://rustup.rs"
    say "building the release binary (a few minutes the first time)"
    (cd "$root" && cargo build --release --locked --bin farmhand)
    built=${CARGO_TARGET_DIR:-$root/target}/release/farmhand
    make_directories_of "$binary" "$bash_completion" "$zsh_completion" "$fish_completion" \
        "$man_dir/farmhand.1" "$settings_example"
    put "$binary" 755 <"$built"
    put_told "$bash_completion" completions bash
    put_told "$zsh_completion" completions zsh
    put_told "$fish_completion" completions fish
    put_told "$man_dir/farmhand.1" man
    for page in $pages; do
        # The page action-show is that of `farmhand action show`.
        # shellcheck disable=SC2046
        put_told "$man_dir/farmhand-$page.1" man $(printf '%s' "$page" | tr - ' ')
    done
    put "$settings_example" 644 <"$root/assets/farmhand.toml"
}

# The line of the unit that starts the program. A percent sign means something there.
start_line() {
    printf 'ExecStart="%s" serve\n' "$(printf '%s' "$binary" | sed 's/%/%%/g')"
}

install_service() {
    make_directories_of "$unit"
    while IFS= read -r line; do
        case $line in
            ExecStart=*) start_line ;;
            *) printf '%s\n' "$line" ;;
        esac
    done <"$root/installer/systemd/farmhand.service" | put "$unit" 644
    if have_user_systemd; then
        systemctl --user daemon-reload
        systemctl --user enable farmhand.service
        systemctl --user restart farmhand.service
        say "the service runs; its log: journalctl --user -u farmhand"
        say "to have it run without a login: loginctl enable-linger $(id -un)"
    else
        say "no systemd user session answers here: after the next login run"
        say "  systemctl --user enable --now farmhand"
    fi
}

# Removes $1 if it is there.
drop() {
    if [ -e "$1" ]; then
        rm -f "$1"
        say "removed $1"
    fi
}

uninstall() {
    if [ -e "$unit" ] && grep -qxF "$(start_line)" "$unit"; then
        if have_user_systemd; then systemctl --user disable --now farmhand.service || true; fi
        drop "$unit"
        if have_user_systemd; then systemctl --user daemon-reload; fi
    fi
    drop "$binary"
    drop "$bash_completion"
    drop "$zsh_completion"
    drop "$fish_completion"
    drop "$man_dir/farmhand.1"
    for page in $pages; do drop "$man_dir/farmhand-$page.1"; done
    drop "$settings_example"
    drop_directories
    say "kept, remove them by hand if you like:"
    say "  ${XDG_DATA_HOME:-$HOME/.local/share}/farmhand      blobs and results"
    say "  ${XDG_CONFIG_HOME:-$HOME/.config}/farmhand           settings"
}

if [ "$action" = uninstall ]; then
    uninstall
    exit 0
fi
install_files
[ "$service" = no ] || install_service
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) say "note: $prefix/bin is not in your PATH" ;;
esac
say "next: farmhand doctor, then: farmhand client bazel"
