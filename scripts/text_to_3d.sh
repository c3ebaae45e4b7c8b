#!/usr/bin/env bash
# From a prompt to a 3D asset on a machine with nothing but Python >= 3.10 and pip:
#   bash scripts/text_to_3d.sh "a red mug"
# Sets up .venv, then runs scripts/text_to_3d.py with the built-in teacher. Further arguments go to it (--help lists them).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ $# -eq 0 ]; then
    echo 'usage: bash scripts/text_to_3d.sh "a red mug" [options]   (options: python scripts/text_to_3d.py --help)' >&2
    exit 2
fi
bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/text_to_3d.py" "$@"
