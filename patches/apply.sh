#!/usr/bin/env bash
# Makes a checkout of the original MulT run on current torch, from scripts and with --model PMR.
#
#     bash patches/apply.sh STOCK_CHECKOUT [COPY]
#
# It changes the checkout, or a new COPY of its code. It needs git, and neither torch nor this repository afterwards: all
# that the patches import goes into a folder pmr/ there, where no name of the original is taken.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
url=https://github.com/yaohungt/Multimodal-Transformer
commit=a670936824ee722c8494fd98d204977a1d663c7a

fail() {
    echo "error: $1" >&2
    exit 2
}

[[ $# == 1 || $# == 2 ]] || fail "usage: bash patches/apply.sh STOCK_CHECKOUT [COPY]"
stock="$1"
while read -r blob name; do  # git's hash of each file that a patch changes
    [[ -f "$stock/$name" ]] || fail "$stock has no $name: give a checkout of $url"
    [[ "$(git hash-object --no-filters "$stock/$name")" == "$blob" ]] ||
        fail "$stock/$name is not that of commit ${commit:0:7}, which the patches are for: check that one out"
done < "${STOCK_BLOBS:-$here/stock.blobs}"  # the tests have a stock of their own
[[ ! -e "$stock/pmr" ]] || fail "$stock does not take the patches: it has a file pmr already; give a clean checkout"

if [[ $# == 2 ]]; then
    mkdir "$2" 2>/dev/null || fail "$2 cannot be made: the folder above it is missing, or it exists"
    cp -R "$stock/main.py" "$stock/modules" "$stock/src" "$2"
    stock="$2"
fi
cd "$stock"
reason="$(GIT_CEILING_DIRECTORIES="$(dirname "$PWD")" git apply --unidiff-zero "$here"/*.patch 2>&1)" ||
    fail "$stock does not take the patches: ${reason##*$'\n'}; give a clean checkout"

mkdir pmr
touch pmr/__init__.py
cp "$here"/added/*.py "$here/../LICENSE" pmr
(cd "$here/.." && tar c --exclude=__pycache__ baselines modules src) | tar x -C pmr
find pmr -name '*.py' | while read -r file; do  # our rooms are pmr.modules, pmr.src and pmr.baselines there
    sed -E 's/^( *)(from|import) (baselines|modules|src)([. ])/\1\2 pmr.\3\4/' "$file" > "$file.new"
    mv "$file.new" "$file"
done
