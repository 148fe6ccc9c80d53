#!/bin/sh
# Validates naga's translations with a SPIR-V validator that supports cooperative matrices: `matrices.sh MATRICES`, the
# folder of dump_shaders.
set -eu

module=$(mktemp)
trap 'rm -f "$module"' EXIT
# Check that the validator rejects invalid input.
if spirv-val --target-env vulkan1.3 "$module" 2>/dev/null; then
    echo 'the validator accepts an empty module' >&2
    exit 1
fi
passed=0
for file in "$1"/*.spv; do
    # naga gives workgroup arrays a stride, which newer Vulkan versions forbid: remove it.
    spirv-dis "$file" | sed '/OpDecorate %_arr_[A-Za-z0-9_]*_uint_[0-9_]* ArrayStride/d' |
        spirv-as --target-env spv1.3 -o "$module" -
    spirv-val --target-env vulkan1.3 "$module" || {
        echo "FAILED $file" >&2
        exit 1
    }
    passed=$((passed + 1))
done
echo "$passed valid modules of cooperative matrices"
[ $passed -gt 0 ]
