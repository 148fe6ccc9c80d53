#!/bin/sh
# Runs the conformance suite on a software driver: `native.sh lavapipe|mesa|swiftshader|gl SUITE`, where SUITE is the
# binary of examples/suite. The process sees only that driver, and the suite checks that it got it. SUITE_SHARE=TEXT/N
# limits the suite to each kernel's first variant and an N-th of the others.
set -eu

driver_file() {
    for file; do
        if [ -f "$file" ]; then
            printf '%s' "$file"
            return
        fi
    done
    printf 'none of these files exists: %s\n' "$*" >&2
    exit 1
}

unset DISPLAY WAYLAND_DISPLAY
export LIBGL_ALWAYS_SOFTWARE=1
# Mesa's layers warn if there is no settings folder.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
case $1 in
    lavapipe | mesa)
        driver=$(driver_file /usr/share/vulkan/icd.d/lvp_icd.*json)
        parts='vulkan llvmpipe'
        ;;
    swiftshader)
        driver=$(driver_file /usr/lib/chromium/vk_swiftshader_icd.json)
        parts='vulkan SwiftShader'
        ;;
    gl)
        driver=/dev/null
        parts='gl llvmpipe'
        ;;
    *)
        echo "unknown stack $1" >&2
        exit 2
        ;;
esac
export VK_DRIVER_FILES="$driver" VK_ICD_FILENAMES="$driver"
# shellcheck disable=SC2086 # words
exec "$2" --stack "$1" ${SUITE_SHARE:+--share "$SUITE_SHARE"} $parts
