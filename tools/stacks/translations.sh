#!/bin/bash
# Lets Khronos' own tools judge naga's translations: `translations.sh PORTABLE SUBGROUPS F16`, the folders of
# dump_shaders.
set -euo pipefail

passed=0 failed=0

# judge <file> <command>...: counts the verdict, and shows it where it is bad.
judge() {
    local file=$1 said
    shift
    if said=$("$@" "$file" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s: %s\n' "${file##*/}" "$said" >&2
    fi
}

# The judges are judged first.
bad=$(mktemp)
trap 'rm -f "$bad"' EXIT
printf '#version 430\nlayout(local_size_x = 64) in;\nvoid main() { nothing = 1; }\n' >"$bad"
if spirv-val "$bad" >/dev/null 2>&1 || glslangValidator -S comp "$bad" >/dev/null 2>&1; then
    echo 'a judge accepts a bad shader' >&2
    exit 1
fi

printf '%s, %s\n' "$(spirv-val --version | head -n 1)" "$(glslangValidator --version | head -n 1)"
# Subgroup operations came with Vulkan 1.1.
for file in "$1"/*.spv; do judge "$file" spirv-val --target-env vulkan1.0; done
for file in "$2"/*.spv "$3"/*.spv; do judge "$file" spirv-val --target-env vulkan1.1; done
for file in "$1"/*.comp "$2"/*.comp; do judge "$file" glslangValidator -S comp; done
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
