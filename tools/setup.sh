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

# yggdrasil 0.5.12 or newer: 0.4, which bookworm has, does not speak its protocol.
has_yggdrasil() {
    [[ $(yggdrasil -version 2>/dev/null) =~ version:\ ([0-9]+\.[0-9]+\.[0-9]+) ]] &&
        printf '0.5.12\n%s\n' "${BASH_REMATCH[1]}" | sort --check --version-sort 2>/dev/null
}

# "Debian package: a command that succeeds where what it brings is there already, from wherever it came".
machine_needs=(
    "ca-certificates: test -e /etc/ssl/certs/ca-certificates.crt"
    "cargo-web: command -v cargo"     # fetches the source of liboqs; bookworm's plain cargo is too old for the registry
    "cmake: command -v cmake"         # builds it
    "gcc: command -v cc"
    "git: command -v git"             # the shape tests ask it for the files of the project
    "iproute2: command -v ip"
    "libc6-dev: test -e /usr/include/stdio.h"
    "make: command -v make"
    "yggdrasil: has_yggdrasil"
)
if [[ $kind == dev ]]; then
    machine_needs+=(
        "conntrack: command -v conntrack" # the four are independent readers and peers in tests and benches
        "iperf3: command -v iperf3"
        "nftables: command -v nft"
        "tcpdump: command -v tcpdump"
        "procps: command -v sysctl"
    )
fi
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
    if [[ " ${missing[*]} " == *" yggdrasil "* ]]; then newer_yggdrasil; fi
    apt-get update --quiet >&2
    DEBIAN_FRONTEND=noninteractive "${install[@]}" --quiet >&2
}

# Debian 12 takes yggdrasil, and nothing else, from Debian 13: by the mirror that this machine uses already.
newer_yggdrasil() {
    if [[ -d /run/systemd/system ]]; then # the package starts a daemon with peers of its own choice; x0td runs its own
        systemctl mask yggdrasil.service >&2
    fi
    [[ $(. /etc/os-release && echo "${VERSION_CODENAME:-}") == bookworm ]] || return 0
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
    [[ -n $mirror ]] || stop "apt knows no mirror of bookworm; please provide yggdrasil 0.5.12 or newer"
    printf '%s\n' "Types: deb" "URIs: $mirror" "Suites: trixie" "Components: main" \
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" >/etc/apt/sources.list.d/x0t-trixie.sources
    printf '%s\n' "Package: *" "Pin: release n=trixie" "Pin-Priority: 100" "" \
        "Package: yggdrasil" "Pin: release n=trixie" "Pin-Priority: 700" >/etc/apt/preferences.d/x0t-trixie
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
