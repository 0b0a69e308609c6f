#!/usr/bin/env bash
# Unpacks Debian's package `dataset-fashion-mnist` into build/data, without root, unless it is installed already.
set -euo pipefail
cd "$(dirname "$0")/.."

place=usr/share/datasets/fashion-mnist

found() { ls "$1"/train-images-idx3-ubyte.gz >/dev/null 2>&1; }

if found "/$place" || found "build/data/$place" || found "${CHIPFIT_FASHION_MNIST:-}"; then
    exit 0
fi
if ! bash scripts/debian.sh build/data dataset-fashion-mnist; then
    echo "Fashion-MNIST can also be unpacked elsewhere: set CHIPFIT_FASHION_MNIST to its folder." >&2
    exit 1
fi
echo "Fashion-MNIST lies in build/data/$place."
