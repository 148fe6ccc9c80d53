#!/bin/bash
# Validates naga's translations with Khronos' tools: `translations.sh PORTABLE SUBGROUPS F16`, the folders of
# dump_shaders.
set -euo pipefail

passed=0 failed=0

# validate <file> <command>...: runs a validator on a file and counts the result. Prints errors.
validate() {
    local file=$1 output
    shift
    if output=$("$@" "$file" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s: %s\n' "${file##*/}" "$output" >&2
    fi
}

# Check that the validators reject invalid input.
bad=$(mktemp)
trap 'rm -f "$bad"' EXIT
printf '#version 430\nlayout(local_size_x = 64) in;\nvoid main() { nothing = 1; }\n' >"$bad"
if spirv-val "$bad" >/dev/null 2>&1 || glslangValidator -S comp "$bad" >/dev/null 2>&1; then
    echo 'a validator accepts an invalid shader' >&2
    exit 1
fi

printf '%s, %s\n' "$(spirv-val --version | head -n 1)" "$(glslangValidator --version | head -n 1)"
# Subgroup operations need Vulkan 1.1.
for file in "$1"/*.spv; do validate "$file" spirv-val --target-env vulkan1.0; done
for file in "$2"/*.spv "$3"/*.spv; do validate "$file" spirv-val --target-env vulkan1.1; done
for file in "$1"/*.comp "$2"/*.comp; do validate "$file" glslangValidator -S comp; done
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
