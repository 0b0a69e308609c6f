#!/usr/bin/env bash
# Unpacks Debian's package `dataset-fashion-mnist` into build/data, without root, unless it is installed already.
set -euo pipefail
cd "$(dirname "$0")/.."

package=dataset-fashion-mnist
place=usr/share/datasets/fashion-mnist
apt=$PWD/build/apt

found() { ls "$1"/train-images-idx3-ubyte.gz >/dev/null 2>&1; }

apt_get() {
    apt-get -qq -o Dir::State="$apt/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$apt/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

if found "/$place" || found "build/data/$place" || found "${CHIPFIT_FASHION_MNIST:-}"; then
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "Fashion-MNIST comes from Debian's package $package: unpack it and set CHIPFIT_FASHION_MNIST to its folder." >&2
    exit 1
fi

mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" build/data
if ! (cd "$apt" && apt_get update && apt_get download "$package"); then
    echo "Debian's package $package could not be downloaded: check the network, or install it by other means." >&2
    exit 1
fi
dpkg -x "$apt/$package"_*.deb build/data
echo "Fashion-MNIST lies in build/data/$place."
