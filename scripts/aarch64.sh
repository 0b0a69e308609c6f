#!/usr/bin/env bash
# Sets up build/aarch64: an emulator of 64-bit ARM with the C library and TVM's runtime that its programs need, and
# `run`, which starts one in it. Nothing is installed; a second call does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

place=$PWD/build/aarch64
python=${PYTHON:-.venv/bin/python}
runtime=(apache-tvm apache-tvm-ffi)

if [ -x "$place/run" ]; then
    exit 0
fi
bash scripts/debian.sh "$place" qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross libstdc++6-arm64-cross
mkdir -p "$place/wheels" "$place/runtime"
grep -hE "^($(IFS='|'; echo "${runtime[*]}"))==" requirements/run.lock >"$place/runtime.txt"
"$python" -m pip download --quiet --no-deps --only-binary :all: --platform manylinux_2_28_aarch64 --dest "$place/wheels" \
    -r "$place/runtime.txt"
for wheel in "$place"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$place/wheels"
done
mv "$place"/wheels/tvm/lib/libtvm_runtime.so "$place"/wheels/tvm_ffi/lib/libtvm_ffi.so "$place/runtime"
rm -r "$place/wheels"
cat >"$place/run.partial" <<RUN
#!/bin/sh
exec "$place/usr/bin/qemu-aarch64-static" -cpu "\${QEMU_CPU:-cortex-a76}" -L "$place/usr/aarch64-linux-gnu" -E LD_LIBRARY_PATH="$place/runtime" "\$@"
RUN
chmod +x "$place/run.partial"
mv "$place/run.partial" "$place/run"
