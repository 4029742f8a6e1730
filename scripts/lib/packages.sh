# SPDX-License-Identifier: Apache-2.0
# Debian packages that Vezha needs, by purpose, and how they are installed. Sourced by quickstart and check.

BUILD_PACKAGES=(g++ cmake ninja-build pkg-config ccache libzydis-dev libzycore-dev liburing-dev libslirp-dev libglib2.0-dev
    libfmt-dev nlohmann-json3-dev libtomlplusplus-dev libseccomp-dev libcap-ng-dev libgtest-dev libgmock-dev)
IMAGE_PACKAGES=(mmdebstrap e2fsprogs busybox-static kmod qemu-utils python3)
TEST_PACKAGES=(acpica-tools python3-pytest libbenchmark-dev clang-19 libclang-rt-19-dev)

# install_packages NAME...: installs those that are missing, as root or through sudo. Prints nothing if all are there.
install_packages() {
    local missing=() name
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "these packages are missing: ${missing[*]}" >&2
            echo "  hint: run this as root, or install sudo" >&2
            return 1
        }
        as_root=(sudo)
    fi
    echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -q && "${as_root[@]}" apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -20 "$log" >&2
        echo "installing packages failed; the whole output is in $log" >&2
        return 1
    fi
    rm -f "$log"
}
