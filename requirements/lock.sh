#!/usr/bin/env bash
# Compile the lock files: cpu.txt, gpu.txt, macos.txt from the .in files beside them, and test.txt with what tests add.
# Usage: requirements/lock.sh [UV]        (make lock)
set -euo pipefail
cd "$(dirname "$0")"
uv=${1:-uv}
# pip's own find-links are where uv looks too: a CPU build of torch may lie there.
UV_FIND_LINKS=${UV_FIND_LINKS:-$(pip config get :env:.find-links 2>/dev/null || pip config get global.find-links 2>/dev/null || true)}
export UV_FIND_LINKS

compile() { # NAME PLATFORM EXCLUDES [OPTION …]
    rm -f "$1.txt"
    "$uv" pip compile --quiet --python-version 3.11 --python-platform "$2" --excludes "$3" "${@:4}" \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$1.in" --output-file "$1.txt"
}
compile cpu x86_64-manylinux_2_28 cpu.excludes.txt
compile test x86_64-manylinux_2_28 cpu.excludes.txt --overrides test.overrides.txt
UV_FIND_LINKS='' compile gpu x86_64-manylinux_2_28 gpu.excludes.txt
UV_FIND_LINKS='' MACOSX_DEPLOYMENT_TARGET=14.0 compile macos aarch64-apple-darwin cpu.excludes.txt
# test.txt names only what the other locks don't: it is installed on top of any of them.
grep -vxFf cpu.txt test.txt > test.new && mv test.new test.txt
# The local part of torch's version says which build; the bootstrap chooses it for the machine.
sed -i 's/^torch==\([0-9.]*\)+cpu$/torch==\1/' cpu.txt
wc -l cpu.txt gpu.txt macos.txt test.txt
