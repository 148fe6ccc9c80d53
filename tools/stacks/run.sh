#!/bin/bash
# Tests the kernels on every stack that runs without a GPU: `run.sh [STAGE...]`, by default all stages. Runs as many
# stages in parallel as there are processors. Prints the output of a stage when it ends. After a failure no further
# stage starts. Prints a table of all stages at the end. A stack that cannot be set up is a failure, not a skip.
#
# Installs what it needs on Debian: apt packages, and npm and PyPI packages in the target folder.
#
# `run.sh gpu-figures` renews the table of the stage gpu-compilers and prints the difference. docs/GPUS.md explains it.
# GPU_SHARE=TEXT/N limits the stage to the table's kernels and an N-th of the others, chosen by TEXT. GPU_COMPILERS is the
# folder that keeps its drivers and results. SUITE_SHARE=TEXT/N limits the suite on drivers and in the browser to each
# kernel's first variant and an N-th of the others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CARGO=${CARGO:-cargo}
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
WORK=$TARGET/stacks
# Longest first, for short wall time.
STAGES=(gpu-compilers dxc lavapipe mesa swiftshader browser python web clients cluster translations tint gl targets)
TARGETS=(wasm32-unknown-unknown aarch64-apple-darwin x86_64-pc-windows-msvc aarch64-linux-android aarch64-apple-ios)
# Newer versions work too, if they reject the known invalid shaders.
WEBGPU=webgpu@0.6.2
COMPUSHADY=compushady==0.17.5
# The newest clients, since users have them.
CLIENTS=(openai anthropic playwright schemathesis gguf numpy)
PROXIES=(httpx 'litellm[proxy]' 'ray[serve]')
PYTHON_TOOLS=(maturin mypy pytest typing_extensions jsonschema gguf numpy)
here=tools/stacks

fail() {
    printf 'test-stacks: %s\n' "$*" >&2
    exit 1
}

# alone <command>...: runs a command under a lock shared by all stages.
alone() {
    (
        flock 9
        "$@"
    ) 9>"$WORK/lock"
}

# apt <package>...: installs missing packages.
apt() {
    alone install_missing "$@"
}

install_missing() {
    local missing=() package sudo=()
    for package; do
        dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install these Debian packages or their equivalents: ${missing[*]}"
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    local get=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    printf 'installing %s\n' "${missing[*]}"
    "${get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        { "${get[@]}" update >/dev/null && "${get[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
        fail "could not install ${missing[*]}"
}

# want <command> <package>...: installs packages if a command is missing.
want() {
    command -v "$1" >/dev/null || apt "${@:2}"
}

# prepare <stage>...: builds what several stages use: the suite and every variant's shader, in the folders of
# dump_shaders.
prepare() {
    [[ " $* " =~ \ (lavapipe|mesa|swiftshader|gl|translations|tint|dxc|gpu-compilers)\  ]] || return 0
    "$CARGO" build --example suite --example dump_shaders --example gpu_shaders
    rm -rf "$WORK/shaders"
    "$TARGET/debug/examples/dump_shaders" "$WORK/shaders"
}

# gpu_compilers <action> <argument>...: compiles for GPUs that are not there. Needs no root if gcc and Python are there.
gpu_compilers() {
    want python3 python3
    want gcc gcc libc6-dev
    local spilling=$WORK/spilling.wgsl
    python3 $here/gpu_compilers/main.py spilling-shader "$spilling"
    rm -rf "$WORK/gpu-shaders"
    "$TARGET/debug/examples/gpu_shaders" "$WORK/gpu-shaders" "$spilling"
    python3 $here/gpu_compilers/main.py "$1" "$WORK/gpu-shaders" "${GPU_COMPILERS:-$WORK/gpu-compilers}" "${@:2}"
}

gpu-compilers() {
    gpu_compilers judge ${GPU_SHARE:+--share "$GPU_SHARE"}
}

lavapipe() {
    apt libvulkan1 mesa-vulkan-drivers
    $here/native.sh lavapipe "$TARGET/debug/examples/suite"
}

# Runs in a chroot, since the newest Mesa needs newer versions of many packages.
mesa() {
    local root=$WORK/sid
    [ "$(id -u)" = 0 ] || fail 'mesa needs root for chroot'
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
        # The source archive contains the compiler's library. Nothing else of it is used.
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

# python_packages <package>...: installs packages of PyPI in the target folder.
python_packages() {
    want python3 python3
    [ -x "$WORK/venv/bin/python" ] || alone python3 -m venv "$WORK/venv" ||
        { apt python3-venv && alone python3 -m venv "$WORK/venv"; }
    alone "$WORK/venv/bin/python" -m pip install -q --disable-pip-version-check "$@"
}

# The npm package and its page. WEB_PROFILE=web builds them as they are published. WEB_TESTS is a part of tests' names.
web() {
    apt chromium
    want node nodejs
    want npm npm
    python_packages playwright
    web/build.sh "${WEB_PROFILE:-dev}"
    "$WORK/venv/bin/python" $here/web.py "${CHROMIUM:-/usr/bin/chromium}" web models/demo-q4_k_m.gguf "$WORK/web" ${WEB_TESTS:-}
}

# The Python package: its lints, its wheel, its types, its tests, and the README's examples. With it, JSON of random models by
# the schemas of a public suite (a part of them: tools/json_schema_suite.py runs all).
python() {
    apt libvulkan1 mesa-vulkan-drivers
    python_packages "${PYTHON_TOOLS[@]}"
    "$CARGO" clippy -q -p ferrum-wgpu-python -- -D warnings
    rm -rf "$WORK/wheels"
    (cd python && "$WORK/venv/bin/maturin" build -q --profile dev -o "$WORK/wheels")
    "$WORK/venv/bin/python" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps "$WORK"/wheels/*.whl
    # Not in the folder of the sources, so that the installed package is tested.
    "$WORK/venv/bin/mypy" --config-file python/pyproject.toml python/tests
    "$WORK/venv/bin/python" -m mypy.stubtest ferrum_wgpu
    local suite=$WORK/jsonschema preset
    if [ ! -d "$suite/json" ]; then
        rm -rf "$suite"
        # The source archive contains JSON-Schema-Test-Suite.
        "$WORK/venv/bin/python" -m pip download -q --no-deps --no-binary :all: -d "$suite" jsonschema
        tar -xzf "$suite"/*.tar.gz -C "$suite" --strip-components=1
    fi
    for preset in dense-test test; do
        "$WORK/venv/bin/python" tools/make_model.py "$WORK/$preset.gguf" --preset $preset >/dev/null
    done
    "$WORK/venv/bin/python" tools/json_schema_suite.py "$suite/json" "$WORK"/{dense-test,test}.gguf --every 5 --seeds 1
    "$WORK/venv/bin/python" -m pytest -q python
}

# The official clients, and Chromium on the chat page, use a server on the demo model; schemathesis a server on a random one.
clients() {
    apt chromium libvulkan1 mesa-vulkan-drivers
    python_packages "${CLIENTS[@]}"
    "$CARGO" build --bin ferrum-wgpu
    "$WORK/venv/bin/python" tools/make_model.py "$WORK/random.gguf" --preset dense-test >/dev/null
    "$WORK/venv/bin/python" $here/openapi.py "$TARGET/debug/ferrum-wgpu" "$WORK/random.gguf"
    "$WORK/venv/bin/python" $here/clients.py "$TARGET/debug/ferrum-wgpu" models/demo-q4_k_m.gguf \
        "${CHROMIUM:-/usr/bin/chromium}" "$WORK/clients"
}

# nginx, LiteLLM and Ray Serve before two servers, one of which is killed under load.
cluster() {
    apt libvulkan1 mesa-vulkan-drivers nginx procps
    python_packages "${PROXIES[@]}"
    "$CARGO" build --bin ferrum-wgpu
    "$WORK/venv/bin/python" examples/cluster/test_cluster.py "$TARGET/debug/ferrum-wgpu" models/demo-q4_k_m.gguf
}

mkdir -p "$WORK"
if [ "$*" = gpu-figures ]; then
    prepare gpu-compilers
    gpu_compilers renew
    exit
fi
if [ $# -eq 0 ]; then
    set -- "${STAGES[@]}"
fi
for stage; do
    [[ " ${STAGES[*]} " == *" $stage "* ]] || fail "unknown stage $stage (stages: ${STAGES[*]})"
done
summary=
failed=
declare -A stage_of=() begun_at=()

# summarise <stage> <verdict> <seconds>: adds a line to the summary: the adapter or compiler that the stage printed, and
# its last line, the counts.
summarise() {
    local by log=$WORK/$1.log
    by=$(grep -m1 -oE '^(vulkan|gl): .*\)|^(Chrome/|Dawn|DXC|Mesa|SPIRV-Tools|rustc).*' "$log" || true)
    summary+=$(printf '%-13s %6s %5s s  %-34s %s' "$1" "$2" "$3" "$(tail -n 1 "$log")" "$by")$'\n'
}

# begin <stage>: runs a stage in a subshell, so that `set -e` applies inside. It does not in a function whose status is
# tested.
begin() {
    printf '== %s started\n' "$1"
    (
        set -e
        "$1"
    ) >"$WORK/$1.log" 2>&1 &
    stage_of[$!]=$1
    begun_at[$1]=$SECONDS
}

# Waits for any running stage to end, and prints its output.
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
