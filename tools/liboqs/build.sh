#!/bin/sh
# Builds PREFIX/lib/liboqs.so (ML-KEM and ML-DSA only, CPU chosen at run time) from the C source inside the crate oqs-sys.
#
#   tools/liboqs/build.sh [PREFIX]        default PREFIX: <repository>/.cache/liboqs
#
# Needs cargo (fetches the source, compiles nothing), cmake, make and a C compiler. Idempotent: nothing happens while the stamp
# beside the library matches the inputs. Talk goes to stderr. The work directory lies beside PREFIX and is always removed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:-$here/../../.cache/liboqs}
crate_sha256=ac6d66ee528a895ce5cc08851698d109c5d7ee5d7a0b3b40d61550eda91e414f # oqs-sys 0.11.0+liboqs-0.13.0

inputs() { (cd "$here" && cat Cargo.toml src/lib.rs shim.c build.sh && uname -m) | sha256sum | cut -d' ' -f1; }
up_to_date() { [ -f "$prefix/lib/liboqs.so" ] && [ "$(cat "$prefix/stamp" 2>/dev/null)" = "$1" ]; }
say() { printf 'liboqs: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

wanted=$(inputs)
if up_to_date "$wanted"; then exit 0; fi

for tool in cargo cmake cc sha256sum flock; do
    command -v "$tool" >/dev/null || stop "$tool is missing (Debian packages: cargo-web cmake make gcc coreutils util-linux)"
done
mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
exec 9>"$prefix.lock"
flock 9 # a second builder waits here and then finds the work done
if up_to_date "$wanted"; then exit 0; fi

work=$(mktemp -d "$prefix.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# quiet STEP COMMAND...: its output is shown only when it fails.
quiet() {
    step=$1
    shift
    "$@" >"$work/output" 2>&1 || { tail -n 40 "$work/output" >&2; stop "$step failed"; }
}

say "1/4 fetching the source"
mkdir "$work/crate" && cp -R "$here/Cargo.toml" "$here/src" "$work/crate/"
quiet "fetching" cargo fetch --manifest-path "$work/crate/Cargo.toml"
cargo metadata --format-version 1 --offline --manifest-path "$work/crate/Cargo.toml" >"$work/metadata.json"
manifest=$(grep -o '"manifest_path":"[^"]*/oqs-sys-0\.11\.0[^"]*"' "$work/metadata.json" | head -n 1 | cut -d'"' -f4)
source=$(dirname "$manifest")
archive=$(echo "$source" | sed 's|/registry/src/|/registry/cache/|').crate
echo "$crate_sha256  $archive" | sha256sum --check --quiet - >&2 || stop "the crate is not the one that was reviewed: $archive"

jobs=$(nproc 2>/dev/null || echo 2)
say "2/4 compiling with $jobs jobs (about half a minute)"
quiet "configuring" cmake -S "$source/liboqs" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$work/install" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
    -DBUILD_SHARED_LIBS=OFF -DOQS_BUILD_ONLY_LIB=ON -DOQS_DIST_BUILD=ON -DOQS_USE_OPENSSL=OFF \
    "-DOQS_MINIMAL_BUILD=KEM_ml_kem_768;SIG_ml_dsa_65"
quiet "compiling" cmake --build "$work/build" --parallel "$jobs" --target install

say "3/4 linking"
quiet "linking" cc -std=c11 -O2 -Wall -Wextra -Werror -shared -fPIC -I"$work/install/include" "$here/shim.c" -o "$work/liboqs.so" \
    -Wl,-soname,liboqs.so -Wl,-Bsymbolic-functions -Wl,-z,relro,-z,now -Wl,-z,noexecstack -Wl,-s \
    -Wl,--whole-archive "$work/install/lib/liboqs.a" -Wl,--no-whole-archive -lpthread

say "4/4 installing $prefix/lib/liboqs.so"
mkdir -p "$prefix/lib" "$prefix/share"
cp "$source/liboqs/LICENSE.txt" "$prefix/share/LICENSE.liboqs.txt"
rm -f "$prefix/stamp"
chmod 0755 "$work/liboqs.so"
mv "$work/liboqs.so" "$prefix/lib/liboqs.so"
echo "$wanted" >"$prefix/stamp"
