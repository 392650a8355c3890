# Sourced by the other scripts: makes .venv with what pyproject.toml asks for, and Debian's packages where they lack.
# Does nothing the second time. Messages go to stderr.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
python="$venv/bin/python"

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "midstream needs Python 3.11 or later with venv; install it: apt install python3 python3-venv"
    exit 2
}

# debian PROGRAM=PACKAGE…: installs the packages whose program is missing, as root or through sudo; says so if it can't.
debian() {
    local pair missing=()
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            say "missing, and not installed for want of root: ${missing[*]} (apt install ${missing[*]})"
            return 0
        fi
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || { say "missing, and there is no apt: ${missing[*]}"; return 0; }
    say "installing Debian packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -q >/dev/null 2>&1 || true
    # A broker of the system's own is not wanted: midstream starts one for itself on a free port.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 2>&1 ||
        say "apt could not install: ${missing[*]}"
}

# environment EXTRAS: what is installed for other extras stays, so that going back and forth takes no time.
environment() {
    local stamp="$venv/.midstream.$1" wanted
    wanted=$( (cat "$root/pyproject.toml"; printf '%s' "$root $1") | sha256sum | cut -d' ' -f1)
    [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return 0
    say "setting up $venv (once; some minutes on a slow line)"
    if [ ! -x "$python" ] || ! "$python" -c '' 2>/dev/null; then
        rm -rf "$venv"
        "$(find_python)" -m venv "$venv"
    fi
    "$python" -m pip install -q --disable-pip-version-check --upgrade pip >&2
    "$python" -m pip install -q --disable-pip-version-check -e "$root[$1]" >&2
    printf '%s' "$wanted" >"$stamp"
}
