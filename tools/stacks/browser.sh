#!/bin/bash
# Builds the conformance suite and a generation test for a browser, and runs them in headless Chromium on SwiftShader's
# WebGPU: `browser.sh FOLDER`. Overwrites FOLDER.
set -euo pipefail

cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
here=tools/stacks
"$cargo" build -p bindgen-wasm
"$cargo" build -p wasm-suite --target wasm32-unknown-unknown
rm -rf "$1"
mkdir -p "$1"
"$target/debug/bindgen-wasm" "$target/wasm32-unknown-unknown/debug/wasm_suite.wasm" "$1"
cp $here/page.html "$1/index.html"
python3 $here/browser.py "${CHROMIUM:-/usr/bin/chromium}" "$1" swiftshader
