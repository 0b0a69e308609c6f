#!/usr/bin/env bash
# Unpacks Debian packages into a folder, without root and without installing them: debian.sh FOLDER PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
shift
apt=$PWD/build/apt

apt_get() {
    apt-get -qq -o Dir::State="$apt/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$apt/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "This needs Debian's packages $*: this system has neither apt-get nor dpkg." >&2
    exit 1
fi
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$folder"
if ! (cd "$apt" && apt_get update && apt_get download "$@"); then
    echo "Debian's packages $* could not be downloaded: check the network." >&2
    exit 1
fi
for package in "$@"; do
    dpkg -x "$apt/$package"_*.deb "$folder"
    rm "$apt/$package"_*.deb
done
