#!/bin/bash
# Judges the kernels on every stack that software alone can offer: `run.sh [STAGE...]`, all stages by default, quick ones
# first. Each stage prints what it ran and its totals; the first that fails ends the run, and a table of all stages is the
# end of it. A stack that cannot be had is a failure, never a skip.
#
# Sets itself up on Debian: packages through apt, an npm and a PyPI package into the target folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CARGO=${CARGO:-cargo}
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
WORK=$TARGET/stacks
STAGES=(lavapipe mesa swiftshader gl translations tint dxc targets browser)
TARGETS=(wasm32-unknown-unknown aarch64-apple-darwin x86_64-pc-windows-msvc aarch64-linux-android aarch64-apple-ios)
# Newer ones are fine too, if their verdicts on the known bad shaders are right.
WEBGPU=webgpu@0.6.2
COMPUSHADY=compushady==0.17.5
here=tools/stacks

fail() {
    printf 'test-stacks: %s\n' "$*" >&2
    exit 1
}

# apt <package>...: installs those that are missing.
apt() {
    local missing=() package sudo=()
    for package; do
        dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install what Debian calls ${missing[*]}"
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    local get=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    printf 'installing %s\n' "${missing[*]}"
    "${get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        { "${get[@]}" update >/dev/null && "${get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
        fail "could not install ${missing[*]}"
}

# want <command> <package>...: installs packages if there is no such command.
want() {
    command -v "$1" >/dev/null || apt "${@:2}"
}

# The examples of this package that the stages use, built once.
examples() {
    "$CARGO" build --examples
}

# Every variant's shader: portable ones, those that need subgroups, and those that need f16.
shaders() {
    examples
    rm -rf "$WORK/shaders"
    "$TARGET/debug/examples/dump_shaders" "$WORK/shaders"
}

lavapipe() {
    apt libvulkan1 mesa-vulkan-drivers
    examples
    $here/native.sh lavapipe "$TARGET/debug/examples/suite"
}

# In a folder of its own, whose root it becomes: the newest Mesa needs the newest of much else.
mesa() {
    local root=$WORK/sid
    [ "$(id -u)" = 0 ] || fail 'mesa needs root, to change the root folder'
    want debootstrap debootstrap
    if [ ! -f "$root/complete" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include=libvulkan1,mesa-vulkan-drivers,spirv-tools \
            sid "$root" http://deb.debian.org/debian >/dev/null
        touch "$root/complete"
    fi
    shaders
    rm -rf "$root/work"
    mkdir "$root/work"
    cp -r $here/native.sh $here/matrices.sh "$TARGET/debug/examples/suite" "$WORK/shaders/matrices" "$root/work"
    chroot "$root" /work/matrices.sh /work/matrices
    chroot "$root" /work/native.sh mesa /work/suite
}

swiftshader() {
    apt libvulkan1 chromium
    examples
    $here/native.sh swiftshader "$TARGET/debug/examples/suite"
}

gl() {
    apt libegl1 libgl1-mesa-dri
    examples
    $here/native.sh gl "$TARGET/debug/examples/suite"
}

translations() {
    apt spirv-tools glslang-tools
    shaders
    $here/translations.sh "$WORK"/shaders/{portable,subgroups,f16}
}

tint() {
    want node nodejs
    want npm npm
    shaders
    mkdir -p "$WORK/node"
    [ -f "$WORK/node/node_modules/webgpu/index.js" ] ||
        npm install --prefix "$WORK/node" --no-save --no-audit --no-fund --ignore-scripts --silent "$WEBGPU"
    node $here/tint.mjs "$WORK/node/node_modules/webgpu" "$WORK"/shaders/{portable,subgroups,f16}
}

dxc() {
    want python3 python3
    python3 -m pip --version >/dev/null 2>&1 || apt python3-pip
    shaders
    local libraries=("$WORK"/dxc/*/compushady/backends/libdxcompiler_"$(uname -m)".so.*)
    if [ ! -f "${libraries[0]}" ]; then
        rm -rf "$WORK/dxc"
        # Its source archive carries the compiler's library; nothing of it is installed.
        python3 -m pip download -q --no-deps --no-binary :all: -d "$WORK/dxc" "$COMPUSHADY"
        tar -xzf "$WORK"/dxc/*.tar.gz -C "$WORK/dxc"
        rm "$WORK"/dxc/*.tar.gz
        libraries=("$WORK"/dxc/*/compushady/backends/libdxcompiler_"$(uname -m)".so.*)
    fi
    python3 $here/dxc.py "${libraries[0]}" 6_0="$WORK/shaders/portable" 6_0="$WORK/shaders/subgroups" 6_2="$WORK/shaders/f16"
}

targets() {
    local target
    rustup target add "${TARGETS[@]}" 2>/dev/null
    rustc --version
    for target in "${TARGETS[@]}"; do
        "$CARGO" check -q --lib --no-default-features --target "$target"
        echo "$target compiles"
    done
    echo "${#TARGETS[@]} passed, 0 failed"
}

browser() {
    apt chromium
    want python3 python3
    rustup target add wasm32-unknown-unknown 2>/dev/null
    $here/browser.sh "$WORK/browser"
}

mkdir -p "$WORK"
if [ $# -eq 0 ]; then
    set -- "${STAGES[@]}"
fi
for stage; do
    [[ " ${STAGES[*]} " == *" $stage "* ]] || fail "no stage $stage, but ${STAGES[*]}"
done
log=$WORK/log
summary=

# summarise <stage> <verdict> <seconds>: a line about what a stage has printed, with the adapter or compiler that it named
# and its last line, the counts.
summarise() {
    local by
    by=$(grep -m1 -oE '^(vulkan|gl): .*\)|^(Chrome/|Dawn|DXC|SPIRV-Tools|rustc).*' "$log" || true)
    summary+=$(printf '%-13s %6s %5s s  %-34s %s' "$1" "$2" "$3" "$(tail -n 1 "$log")" "$by")$'\n'
}

# Prints the table of what has run, whether all did or not.
finish() {
    printf '\n%-13s %6s %7s  %-34s %s\n%s' stage '' time counts 'adapter or compiler' "$summary"
}

begun_all=$SECONDS
for stage; do
    printf '\n== %s\n' "$stage"
    begun=$SECONDS
    # Its own process, so that set -e holds inside, which it does not where a function's success is asked for.
    set +e
    (set -e; "$stage") | tee "$log"
    status=${PIPESTATUS[0]}
    set -e
    if [ $status != 0 ]; then
        summarise "$stage" FAILED $((SECONDS - begun))
        finish
        fail "$stage failed"
    fi
    summarise "$stage" passed $((SECONDS - begun))
done
finish
printf '\ntest-stacks: all in %s s\n' $((SECONDS - begun_all))
