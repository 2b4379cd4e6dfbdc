#!/usr/bin/env bash
# Prepares this machine and this checkout; does nothing where nothing is missing (that costs well under a second).
# Usage: tools/setup.sh run|dev      run: what ./run needs; dev: what ./test needs, which includes it
# Makes .venv (Python packages, each checked against its hash) and .cache/liboqs; installs Debian packages only as root.
# X0T_PYTHON names another interpreter (3.11 or 3.12) than Debian's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

kind=${1:-}
[[ $kind == run || $kind == dev ]] || stop "usage: tools/setup.sh run|dev"
python=${X0T_PYTHON:-/usr/bin/python3}
stamps=.cache/setup
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

# "Debian package: a command that succeeds where what it brings is there already, from wherever it came".
machine_needs=(
    "ca-certificates: test -e /etc/ssl/certs/ca-certificates.crt"
    "cargo-web: command -v cargo"     # fetches the source of liboqs; bookworm's plain cargo is too old for the registry
    "cmake: command -v cmake"         # builds it
    "gcc: command -v cc"
    "git: command -v git"             # the shape tests ask it for the files of the project
    "libc6-dev: test -e /usr/include/stdio.h"
    "make: command -v make"
)
if [[ -z ${X0T_PYTHON:-} ]]; then
    machine_needs+=("python3: test -x $python" "python3-venv: $python -c 'import ensurepip, venv'")
fi

machine_packages() {
    local need missing=()
    for need in "${machine_needs[@]}"; do
        eval "${need#*: }" >/dev/null 2>&1 || missing+=("${need%%: *}")
    done
    [[ ${#missing[@]} -eq 0 ]] && return
    local install=(apt-get install --yes --no-install-recommends "${missing[@]}")
    [[ $EUID -eq 0 ]] || stop "packages are missing; as root: apt-get update && ${install[*]}"
    command -v apt-get >/dev/null || stop "this is not Debian; please provide: ${missing[*]}"
    say "Debian packages: ${missing[*]}"
    apt-get update --quiet >&2
    DEBIAN_FRONTEND=noninteractive "${install[@]}" --quiet >&2
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

virtual_environment() {
    local version present
    present=$(version_of .venv/bin/python) || true
    [[ -z ${X0T_PYTHON:-} && ($present == 3.11 || $present == 3.12) ]] && return # made before, perhaps with X0T_PYTHON
    version=$(version_of "$python") || stop "$python does not start"
    [[ $version == 3.11 || $version == 3.12 ]] ||
        stop "$python is Python $version; 3.11 or 3.12 is needed (automerge has no wheel for others): set X0T_PYTHON to one"
    [[ $present == "$version" ]] && return
    say "virtual environment with Python $version"
    rm -f "$stamps"/{build,run,dev,project}
    "$python" -m venv --clear .venv
}

# changed STAMP: succeeds unless the stamp holds the text on standard input; `wanted` is that text.
changed() { wanted=$(cat) && [[ $wanted != "$(cat "$stamps/$1" 2>/dev/null)" ]]; }
done_with() { printf '%s\n' "$wanted" >"$stamps/$1"; }

requirements() { # requirements NAME PIP_ARGUMENT...: installs exactly what the lock file says.
    local name=$1 && shift
    changed "$name" < <(sha256sum "requirements/$name.txt") || return 0
    say "Python packages of requirements/$name.txt"
    .venv/bin/python -m pip install --quiet --require-hashes "$@" -r "requirements/$name.txt" >&2
    done_with "$name"
}

project() {
    changed project < <(sha256sum pyproject.toml && pwd) || return 0
    say "the project itself, editable"
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable . >&2
    done_with project
}

mkdir -p "$stamps"
exec 8>"$stamps/lock"
flock 8 # two commands at once: the second waits and finds the work done
machine_packages
virtual_environment
requirements build
# --no-build-isolation: what has no wheel is built with the checked tools of build.txt.
cmp -s <(sha256sum requirements/dev.txt) "$stamps/dev" || requirements "$kind" --no-build-isolation
project
sh tools/liboqs/build.sh .cache/liboqs 8>&-
