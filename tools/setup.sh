#!/bin/sh
# Installs missing system packages for building and running: a C linker, the Vulkan loader and, without a usable Vulkan
# driver, a software driver. Does nothing except on Linux: macOS has Metal, Windows DirectX.
set -eu

say() { printf 'setup: %s\n' "$*" >&2; }

# Prints the folders that the Vulkan loader searches for drivers, one per line.
driver_dirs() {
    printf '%s' "${XDG_CONFIG_HOME:-${HOME:-}/.config}:${XDG_CONFIG_DIRS:-/etc/xdg}:/usr/local/etc:/etc:" \
        "${XDG_DATA_HOME:-${HOME:-}/.local/share}:${XDG_DATA_DIRS:-}:/usr/local/share:/usr/share" |
        tr ':' '\n' | sed -e '/^$/d' -e 's|/*$|/vulkan/icd.d|'
}

# Tests whether the dynamic linker finds the library $1.
library_found() {
    if PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -qF "$1 "; then
        return 0
    fi
    old_ifs=$IFS
    IFS=:
    for dir in ${LD_LIBRARY_PATH:-} /usr/local/lib /usr/lib /usr/lib64 /lib; do
        if [ -n "$dir" ] && [ -e "$dir/$1" ]; then
            IFS=$old_ifs
            return 0
        fi
    done
    IFS=$old_ifs
    return 1
}

# Tests whether any argument exists. The arguments are an expanded pattern.
any_exists() {
    for path; do
        if [ -e "$path" ]; then
            return 0
        fi
    done
    return 1
}

# Tests whether the driver described by the file $1 has its library and its device exists.
driver_usable() {
    library=$(sed -n 's/.*"library_path"[^"]*"\([^"]*\)".*/\1/p' "$1" 2>/dev/null | head -n 1)
    case $library in
        '') return 1 ;;
        /*) [ -e "$library" ] || return 1 ;;
        */*) [ -e "$(dirname "$1")/$library" ] || return 1 ;;
        *) library_found "$library" || return 1 ;;
    esac
    case ${1##*/} in
        *i[36]86*) case $(uname -m) in i?86) ;; *) return 1 ;; esac ;;
    esac
    case ${1##*/} in
        *lvp* | *swiftshader* | *swrast*) return 0 ;;
        *nvidia*) any_exists /dev/nvidiactl ;;
        *dzn*) any_exists /dev/dxg ;;
        *) any_exists /dev/dri/renderD* /dev/nvidiactl /dev/kgsl-3d0 /dev/mali0 ;;
    esac
}

have_driver() {
    chosen=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}
    if [ -n "$chosen" ]; then
        # The loader uses only these drivers, so installing another one would not help.
        old_ifs=$IFS
        IFS=:
        for path in $chosen; do
            if [ -e "$path" ]; then
                IFS=$old_ifs
                return 0
            fi
        done
        IFS=$old_ifs
        say "VK_DRIVER_FILES or VK_ICD_FILENAMES names no existing file: $chosen"
        exit 1
    fi
    dirs=$(driver_dirs)
    old_ifs=$IFS
    IFS='
'
    for dir in $dirs; do
        for file in "$dir"/*.json; do
            if [ -f "$file" ] && driver_usable "$file"; then
                IFS=$old_ifs
                return 0
            fi
        done
    done
    IFS=$old_ifs
    return 1
}

apt() {
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
    fi
}

install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        say "please install with the system's package manager: $missing"
        say "(Fedora: gcc vulkan-loader mesa-vulkan-drivers; Arch: gcc vulkan-icd-loader vulkan-swrast)"
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
        say "please run as root: apt-get install --no-install-recommends $packages"
        exit 1
    fi
    say "installing $missing: $packages"
    # The package lists may be missing or outdated: update them if the first attempt fails.
    # shellcheck disable=SC2086 # a list of words
    if apt install -y --no-install-recommends $packages >/dev/null 2>&1; then
        return
    fi
    # shellcheck disable=SC2086
    if apt update >/dev/null && apt install -y --no-install-recommends $packages >/dev/null; then
        return
    fi
    say "could not install $packages. Check that the machine is online and no other installation is running, and try again."
    exit 1
}

if [ "$(uname -s)" != Linux ]; then
    exit 0
fi

packages=
missing=
need() {
    missing="${missing:+$missing, }$1"
    shift
    packages="${packages:+$packages }$*"
}
command -v cc >/dev/null 2>&1 || need 'a C linker' gcc libc6-dev
library_found libvulkan.so.1 || need 'the Vulkan loader' libvulkan1
have_driver || need 'a software Vulkan driver' mesa-vulkan-drivers
if [ -n "$packages" ]; then
    install_packages
fi

if ! command -v "${CARGO:-cargo}" >/dev/null 2>&1; then
    say "Rust is missing: https://rustup.rs installs it"
    exit 1
fi
