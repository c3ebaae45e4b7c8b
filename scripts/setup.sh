#!/usr/bin/env bash
# Make or refresh the virtual environment .venv: requirements.txt, and the project itself (pip install -e .).
# Does nothing when it is up to date.
# Sourced or run by the other scripts; prints what it does.
#   PYTHON   interpreter to build with (default: python3)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
venv="$root/.venv"
stamp="$venv/.requirements.sha256"

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "setup: $python is missing or older than 3.10; install Python >= 3.10 or set PYTHON=/path/to/python3" >&2
    exit 2
fi
wanted="$("$python" -c 'import hashlib,sys; print(hashlib.sha256(b"".join(open(f,"rb").read() for f in sys.argv[1:])).hexdigest())' "$root/requirements.txt" "$root/pyproject.toml")"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "setup: .venv is up to date"
else
    if [ ! -x "$venv/bin/python" ]; then
        echo "setup: making the virtual environment .venv"
        "$python" -m venv "$venv"
    fi
    echo "setup: installing requirements.txt (some gigabytes the first time, a few minutes)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable "$root"
    echo "$wanted" > "$stamp"
fi
"$venv/bin/python" - <<'PY'
import platform
import torch
device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
print(f"setup: Python {platform.python_version()}, torch {torch.__version__}, device {device}")
PY
