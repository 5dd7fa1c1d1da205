#!/bin/sh
# Install fedrad from this bundle: ./install.sh FOLDER   (no network, no administrator's rights)
# PYTHON names the interpreter; it must be the version in the bundle's name.
set -eu
target=${1:?usage: ./install.sh FOLDER}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here"
sha256sum --check --quiet --strict SHA256SUMS
"${PYTHON:-python3}" -m venv "$target"
"$target/bin/python" -m pip install --disable-pip-version-check --quiet --isolated \
    --no-index --no-deps --find-links wheels --require-hashes -r requirements.txt
"$target/bin/fedrad" --help > /dev/null
echo "fedrad is installed: $target/bin/fedrad"
