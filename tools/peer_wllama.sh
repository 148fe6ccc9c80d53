#!/bin/bash
# Compares the npm package with wllama (llama.cpp as WebAssembly, with and without WebGPU) in headless Chromium, one run after
# the other, and prints a table: peer_wllama.sh NAME=MODEL.gguf ... (Debian, as root: it installs what is missing).
#
# ADAPTERS="cpu swiftshader lavapipe"   lavapipe is of Mesa 25 from bookworm-backports, unpacked and not installed. Chromium takes
#                 no software driver but SwiftShader for WebGPU: tools/peer_wllama/shim.c stands in SwiftShader's place
# TOKENS=32       tokens of a reply
#
# The package is that of web/dist: run web/build.sh before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=tools/peer_wllama
work=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peer-wllama
adapters=${ADAPTERS:-cpu swiftshader lavapipe}
[ $# -gt 0 ] || { sed -n '2,10s/^# \?//p' "${BASH_SOURCE[0]}"; exit 2; }
[ -f web/dist/index.js ] || { echo 'web/dist is missing: run web/build.sh' >&2; exit 1; }
mkdir -p "$work"

packages=()
need() { command -v "$1" >/dev/null || packages+=("${@:2}"); }
need chromium chromium; need python3 python3 python3-venv; need npm npm; need gcc gcc libc6-dev
[ ${#packages[@]} = 0 ] || { apt-get update; apt-get install -y --no-install-recommends "${packages[@]}"; }
[ -d "$work/node_modules/@wllama/wllama" ] ||
    npm install --prefix "$work" --no-save --no-audit --no-fund --ignore-scripts --silent @wllama/wllama@3.8.1
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check playwright

if [[ $adapters == *lavapipe* ]]; then
    driver=$work/mesa/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so
    if [ ! -f "$driver" ]; then
        apt=$work/apt
        mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
        # Debian's archive, as this machine's apt knows it.
        mirror=${DEBIAN_MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
            awk '/^(URIs:|deb )/ {for (i = 2; i <= NF; i++) if ($i ~ /^https?:.*\/debian\/?$/) {print $i}}' | sed -n 1p || true)}
        key="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror"
        printf 'deb %s bookworm main\ndeb %s bookworm-backports main\n' "$key" "$key" >"$apt/sources.list"
        private=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
            -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
        apt-get "${private[@]}" update
        (cd "$apt" && apt-get "${private[@]}" download mesa-vulkan-drivers/bookworm-backports)
        dpkg -x "$apt"/mesa-vulkan-drivers*.deb "$work/mesa"
        # Its libraries are those of Debian's own package.
        if ldd "$driver" | grep -q 'not found'; then apt-get install -y --no-install-recommends mesa-vulkan-drivers; fi
    fi
    if [ ! -f "$work/chromium/libvk_swiftshader.so" ]; then
        rm -rf "$work/chromium"
        cp -r /usr/lib/chromium "$work/chromium"
        rm "$work/chromium/libvk_swiftshader.so"
        gcc -O1 -Wall -shared -fPIC -o "$work/chromium/libvk_swiftshader.so" "$here/shim.c" -ldl
    fi
fi
[ "${1:-}" != setup ] || exit 0
exec "$work/venv/bin/python" "$here/compare.py" "$work" "$adapters" "$@"
