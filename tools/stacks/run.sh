#!/bin/bash
# Judges the kernels on every stack that software alone can offer: `run.sh [STAGE...]`, all stages by default, as many at a time
# as there are processors. What a stage printed, what it ran and its totals, is shown when it ends; after one that fails no
# more are begun, and a table of all stages is the end of it. A stack that cannot be had is a failure, never a skip.
#
# Sets itself up on Debian: packages through apt, an npm and a PyPI package into the target folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CARGO=${CARGO:-cargo}
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
WORK=$TARGET/stacks
# Long ones first, so that none is left alone at the end.
STAGES=(dxc lavapipe mesa swiftshader browser translations tint gl targets)
TARGETS=(wasm32-unknown-unknown aarch64-apple-darwin x86_64-pc-windows-msvc aarch64-linux-android aarch64-apple-ios)
# Newer ones are fine too, if their verdicts on the known bad shaders are right.
WEBGPU=webgpu@0.6.2
COMPUSHADY=compushady==0.17.5
here=tools/stacks

fail() {
    printf 'test-stacks: %s\n' "$*" >&2
    exit 1
}

# alone <command>...: runs it while no other stage runs anything so.
alone() {
    (
        flock 9
        "$@"
    ) 9>"$WORK/lock"
}

# apt <package>...: installs those that are missing.
apt() {
    alone install_missing "$@"
}

install_missing() {
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

# prepare <stage>...: makes what several stages use: the suite, and every variant's shader, portable ones, those that need
# subgroups, those that need f16 or matrices.
prepare() {
    [[ " $* " =~ \ (lavapipe|mesa|swiftshader|gl|translations|tint|dxc)\  ]] || return 0
    "$CARGO" build --examples
    rm -rf "$WORK/shaders"
    "$TARGET/debug/examples/dump_shaders" "$WORK/shaders"
}

lavapipe() {
    apt libvulkan1 mesa-vulkan-drivers
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
    rm -rf "$root/work"
    mkdir "$root/work"
    cp -r $here/native.sh $here/matrices.sh "$TARGET/debug/examples/suite" "$WORK/shaders/matrices" "$root/work"
    chroot "$root" /work/matrices.sh /work/matrices
    chroot "$root" /work/native.sh mesa /work/suite
}

swiftshader() {
    apt libvulkan1 chromium
    $here/native.sh swiftshader "$TARGET/debug/examples/suite"
}

gl() {
    apt libegl1 libgl1-mesa-dri
    $here/native.sh gl "$TARGET/debug/examples/suite"
}

translations() {
    apt spirv-tools glslang-tools
    $here/translations.sh "$WORK"/shaders/{portable,subgroups,f16}
}

tint() {
    want node nodejs
    want npm npm
    mkdir -p "$WORK/node"
    [ -f "$WORK/node/node_modules/webgpu/index.js" ] ||
        npm install --prefix "$WORK/node" --no-save --no-audit --no-fund --ignore-scripts --silent "$WEBGPU"
    node $here/tint.mjs "$WORK/node/node_modules/webgpu" "$WORK"/shaders/{portable,subgroups,f16}
}

dxc() {
    want python3 python3
    python3 -m pip --version >/dev/null 2>&1 || apt python3-pip
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
    alone rustup target add "${TARGETS[@]}" 2>/dev/null
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
    alone rustup target add wasm32-unknown-unknown 2>/dev/null
    $here/browser.sh "$WORK/browser"
}

mkdir -p "$WORK"
if [ $# -eq 0 ]; then
    set -- "${STAGES[@]}"
fi
for stage; do
    [[ " ${STAGES[*]} " == *" $stage "* ]] || fail "no stage $stage, but ${STAGES[*]}"
done
summary=
failed=
declare -A stage_of=() begun_at=()

# summarise <stage> <verdict> <seconds>: a line about what a stage has printed, with the adapter or compiler that it named
# and its last line, the counts.
summarise() {
    local by log=$WORK/$1.log
    by=$(grep -m1 -oE '^(vulkan|gl): .*\)|^(Chrome/|Dawn|DXC|SPIRV-Tools|rustc).*' "$log" || true)
    summary+=$(printf '%-13s %6s %5s s  %-34s %s' "$1" "$2" "$3" "$(tail -n 1 "$log")" "$by")$'\n'
}

# begin <stage>: in a process of its own, so that set -e holds inside, which it does not where a function's success is asked for.
begin() {
    printf '== %s begins\n' "$1"
    (
        set -e
        "$1"
    ) >"$WORK/$1.log" 2>&1 &
    stage_of[$!]=$1
    begun_at[$1]=$SECONDS
}

# Waits for any of the stages that run, and shows what it printed.
end() {
    local pid stage status=0 verdict=passed
    wait -n -p pid || status=$?
    stage=${stage_of[$pid]}
    unset "stage_of[$pid]"
    if [ $status != 0 ]; then
        verdict=FAILED
        failed+=" $stage"
    fi
    printf '\n== %s\n' "$stage"
    cat "$WORK/$stage.log"
    summarise "$stage" $verdict $((SECONDS - begun_at[$stage]))
}

begun_all=$SECONDS
prepare "$@"
for stage in "${STAGES[@]}"; do
    [[ " $* " == *" $stage "* ]] || continue
    if [ ${#stage_of[@]} -ge "$(nproc)" ]; then
        end
    fi
    [ -z "$failed" ] || break
    begin "$stage"
done
while [ ${#stage_of[@]} -gt 0 ]; do
    end
done
printf '\n%-13s %6s %7s  %-34s %s\n%s' stage '' time counts 'adapter or compiler' "$summary"
[ -z "$failed" ] || fail "failed:$failed"
printf '\ntest-stacks: all in %s s\n' $((SECONDS - begun_all))
