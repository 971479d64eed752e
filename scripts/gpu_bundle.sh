#!/usr/bin/env bash
# What a GPU machine without network lacks, in archives under .gpu/, for one that has CPython 3.12, torch, transformers
# and peft (scripts/gpu_wheels.py holds the list of what it is taken to have):
#
#   scripts/gpu_bundle.sh             # .gpu/main.tar.xz, .gpu/pyarrow.tar.xz, .gpu/unsloth.tar.xz
#
# Take the working tree and .gpu/ there and run scripts/gpu_session.sh, which unpacks them; pyarrow only where none is.
# A second call does nothing until one of the files that decide what is in them has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LIMIT=60000000 # bytes, of all archives together

decided=$(cat constraints.txt pyproject.toml scripts/gpu_wheels.py scripts/gpu_bundle.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat .gpu/made-of 2>/dev/null)" != "$decided" ]; then
    raw=$(mktemp -d)
    trap 'rm -rf "$raw"' EXIT
    mkdir -p .gpu
    rm -f .gpu/made-of
    "$PYTHON" scripts/gpu_wheels.py "$raw" >.gpu/contents.txt

    find "$raw" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
    find "$raw/main/bitsandbytes" -name 'libbitsandbytes_*.so' ! -name '*cpu.so' ! -name '*cuda130.so' -delete
    rm -rf "$raw"/unsloth/{studio,unsloth_cli}
    (
        cd "$raw/pyarrow/pyarrow"
        rm -rf include src ./*flight* ./*_cpp_tests* ./*_orc* ./_{azurefs,gcsfs,s3fs,hdfs,substrait}*
        rm -f ./*.pyx ./*.pxd ./*.pxi ./*encryption* libarrow_python.so libarrow_python.so.*.*.*
    )
    find "$raw" -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null || true # smaller, where it is there
    for name in main pyarrow unsloth; do
        tar -C "$raw/$name" --owner=0 --group=0 --sort=name -cf - . | xz -T0 -6 >".gpu/$name.tar.xz.part"
        mv ".gpu/$name.tar.xz.part" ".gpu/$name.tar.xz"
    done
    echo "$decided" >.gpu/made-of
fi

cat .gpu/contents.txt
du -h --apparent-size .gpu/*.tar.xz
size=$(cat .gpu/*.tar.xz | wc -c)
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 cat 2>/dev/null | wc -c)
echo "$size bytes in archives, $tree in the working tree"
[ "$size" -lt "$LIMIT" ] || { echo "more than $LIMIT bytes" >&2; exit 1; }
