#!/bin/bash
# Builds the npm package in dist/, and the page in site/: build.sh [PROFILE]. The profile is `web` by default; `dev` is
# built faster, and larger.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo=${CARGO:-cargo}
profile=${1:-web}
target=$(realpath -m "${CARGO_TARGET_DIR:-../target}")
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")

rustup target list --installed | grep -qx wasm32-unknown-unknown || rustup target add wasm32-unknown-unknown
"$cargo" build -p bindgen-wasm
"$cargo" build -p ferrum-wgpu-web --target wasm32-unknown-unknown --profile "$profile"
[ -x node_modules/.bin/tsc ] || npm ci --no-audit --no-fund --ignore-scripts --silent
rm -rf dist ts/wasm
mkdir -p dist/wasm ts/wasm
"$target/debug/bindgen-wasm" "$target/wasm32-unknown-unknown/$folder/ferrum_wgpu_web.wasm" ts/wasm
node_modules/.bin/tsc -p .
cp ts/wasm/*.js ts/wasm/*.wasm dist/wasm/
# Applications see the types of index.d.ts only.
rm dist/{host,hub,rpc,store,worker}.d.ts
