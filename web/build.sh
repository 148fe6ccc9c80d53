#!/bin/bash
# Builds the npm package in dist/, and the page in site/: build.sh [PROFILE]. The profile is `web` by default; `dev` is
# built faster, and larger.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo=${CARGO:-cargo}
profile=${1:-web}
target=$(realpath -m "${CARGO_TARGET_DIR:-../target}")
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")

if ! command -v npm >/dev/null; then
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    command -v apt-get >/dev/null && "${sudo[@]}" apt-get install -qq -y --no-install-recommends nodejs npm >/dev/null ||
        { echo 'please install Node and npm' >&2; exit 1; }
fi
rustup target list --installed | grep -qx wasm32-unknown-unknown || rustup target add wasm32-unknown-unknown
"$cargo" build -p bindgen-wasm
"$cargo" build -p ferrum-wgpu-web --target wasm32-unknown-unknown --profile "$profile"
[ -x node_modules/.bin/tsc ] || npm ci --no-audit --no-fund --ignore-scripts --silent
rm -rf dist ts/wasm
mkdir -p dist/wasm ts/wasm
"$target/debug/bindgen-wasm" "$target/wasm32-unknown-unknown/$folder/ferrum_wgpu_web.wasm" ts/wasm
node_modules/.bin/tsc -p .
cp ts/wasm/*.js ts/wasm/*.wasm dist/wasm/
if [ "$profile" = web ]; then
    # 13 % smaller. The flags are the features that browsers with WebGPU have.
    features=(bulk-memory bulk-memory-opt call-indirect-overlong multivalue mutable-globals nontrapping-float-to-int
        reference-types sign-ext)
    node_modules/.bin/wasm-opt -Oz "${features[@]/#/--enable-}" --strip-debug --strip-producers \
        ts/wasm/ferrum_wgpu_web_bg.wasm -o dist/wasm/ferrum_wgpu_web_bg.wasm
fi
# Applications see the types of index.d.ts only.
rm dist/{checks,host,hub,rpc,store,worker}.d.ts

# The page: its own files, the package, and the demo model.
rm -rf site
node_modules/.bin/tsc -p page
sed -i "s#from 'ferrum-wgpu'#from './ferrum-wgpu/index.js'#" site/page.js
cp page/*.html page/*.css page/*.svg page/*.webmanifest site/
mkdir -p site/ferrum-wgpu site/models
cp -r dist/*.js dist/wasm site/ferrum-wgpu/
cp ../models/demo-q4_k_m.gguf site/models/
files=$(cd site && find . -type f ! -name sw.js ! -path './models/*' | sort | sed 's/.*/"&"/' | paste -sd ,)
version=$(cd site && find . -type f -exec sha256sum {} + | sort | sha256sum | cut -c 1-16)
sed -i "1i const FILES = ['./', $files], VERSION = '$version';" site/sw.js
