#!/usr/bin/env bash
# Unpacks the Debian packages with data into build/data, without root, unless they are there or installed already.
set -euo pipefail
cd "$(dirname "$0")/.."

fetch() {  # a package, where its data lies, what of it is unpacked last, and the variable that may name another place
    if [ -e "/$2/$3" ] || [ -e "build/data/$2/$3" ] || [ -e "${!4:-}/$3" ]; then
        return
    fi
    if ! bash scripts/debian.sh build/data "$1"; then
        echo "What is in $1 can also be unpacked elsewhere: set $4 to its folder $2." >&2
        return 1
    fi
    echo "The data of $1 lies in build/data/$2."
}

missing=0
fetch dataset-fashion-mnist usr/share/datasets/fashion-mnist train-labels-idx1-ubyte.gz CHIPFIT_FASHION_MNIST || missing=1
fetch tuxpaint-stamps-default usr/share/tuxpaint/stamps vehicles CHIPFIT_STAMPS || missing=1
exit $missing
