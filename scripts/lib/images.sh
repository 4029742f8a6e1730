# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the image makers share: messages, the cache folder, the Debian sources of this machine and its kernel packages.
# Sourced, never run.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die MESSAGE [HINT]: one clear error, and what to do about it.
die() {
    say "error: $1"
    [[ $# -lt 2 ]] || say "hint: $2"
    exit 1
}

# need PROGRAM=PACKAGE...: names every missing program's package in one message.
need() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [[ ${#missing[@]} -eq 0 ]] || die "missing programs" "apt-get install ${missing[*]}"
}

images_cache() { printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/vezha/images"; }

# The stamp says which recipe and options made an output; a different one means "make it again".
# recipe_stamp FILE... -- OPTION...: a line for the stamp file.
recipe_stamp() {
    local files=()
    while [[ $1 != -- ]]; do files+=("$1") && shift; done
    printf '%s %s\n' "$(cat "${files[@]}" | sha256sum | cut -d' ' -f1)" "$*"
}

# is_current DIR STAMP: true when DIR was made by the same recipe with the same options.
is_current() { [[ -f $1/stamp && $(<"$1/stamp") == "$2" ]]; }

# check_output DIR: DIR will be replaced, so it must be ours, empty or absent.
check_output() {
    [[ ! -e $1 || -f $1/stamp || (-d $1 && -z $(ls -A "$1")) ]] ||
        die "$1 exists and was not made by this script" "give --out a folder that does not exist yet"
}

# publish TEMPORARY FINAL: puts a finished folder in its place; a reader sees the old one or the new one, whole.
publish() {
    local old="$2.old.$$"
    [[ ! -e $2 ]] || mv -T "$2" "$old"
    mv -T "$1" "$2"
    rm -rf "$old"
}

# The suite of Debian that this machine runs; the guest gets the same one.
debian_suite() {
    # shellcheck source=/dev/null
    (. /etc/os-release && [[ $ID == debian ]] && printf '%s\n' "$VERSION_CODENAME") ||
        die "the image makers run on Debian" "make the images on a Debian 12 machine or container and copy them"
}

# Debian's own sources as apt knows them, one "deb ..." line each. apt has read sources.list and every .list and
# .sources file already, so neither format needs a parser here; third-party repositories are left out.
debian_sources() {
    local suite lines
    suite=$(debian_suite)
    # shellcheck disable=SC2016
    lines=$(apt-get indextargets --format '$(ORIGIN)|$(CREATED_BY)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)' |
        sed -n "s/^Debian|Packages|\(deb [^ ]* ${suite}[^ ]* .*\)$/\1/p" | sort -u)
    [[ -n $lines ]] || die "apt knows no source of Debian $suite" "run apt-get update first"
    printf '%s\n' "$lines"
}

# kernel_package FLAVOUR: the versioned package behind linux-image-FLAVOUR, such as linux-image-6.1.0-30-cloud-amd64.
kernel_package() {
    local meta package
    case $1 in
        cloud) meta=linux-image-cloud-amd64 ;;
        amd64) meta=linux-image-amd64 ;;
        *) die "unknown kernel flavour '$1'" "use cloud or amd64" ;;
    esac
    package=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [[ -n $package ]] || die "apt does not know $meta" "run apt-get update first"
    printf '%s\n' "$package"
}

# unpack_kernel FLAVOUR DIR: downloads the kernel package and unpacks it to DIR without installing it;
# afterwards DIR/boot/vmlinuz-VERSION and DIR/lib/modules/VERSION (with its modules.dep) are there. Prints VERSION.
unpack_kernel() {
    local package version
    package=$(kernel_package "$1")
    version=${package#linux-image-}
    mkdir -p "$2/download"
    # apt drops privileges to fetch and warns when it cannot reach the folder; only its errors matter here.
    (cd "$2/download" && apt-get -q=2 download "$package" 2>"$2/apt.log" >&2) || {
        cat "$2/apt.log" >&2
        die "cannot download $package" "check apt-get update and the network"
    }
    dpkg-deb -x "$2"/download/*.deb "$2"
    rm -r "$2/download" "$2/apt.log"
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$2" "$version"
    printf '%s\n' "$version"
}
