#!/usr/bin/env bash
# Renews requirements/{build,run,dev}.txt: exact versions, the hashes of every file of each version (so one lock
# serves Python 3.11 and 3.12, x86-64 and aarch64), and no host name or path of a machine.
# Usage: tools/lock.sh [--upgrade | --upgrade-package NAME]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# --no-config: the options stand here and nowhere else. --allow-unsafe: hash checking needs pip and setuptools pinned too.
options=(--quiet --no-config --generate-hashes --allow-unsafe --strip-extras --no-header
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host)

lock() { # lock NAME PIP_COMPILE_ARGUMENT...: afterwards the file says that it is made.
    local name=$1 && shift
    .venv/bin/pip-compile "${options[@]}" "$@" --output-file="requirements/$name.txt" "requirements/$name.in"
    grep -q '^# Made by' "requirements/$name.txt" ||
        sed -i "1i # Made by tools/lock.sh from $name.in: do not edit." "requirements/$name.txt"
}

# The largest first; the others are cut from it, so that one version of a package serves everywhere.
lock dev "$@"
lock run --constraint requirements/dev.txt
lock build --constraint requirements/dev.txt
