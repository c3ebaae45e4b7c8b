#!/usr/bin/env bash
# The page in the browser, on a machine with nothing but Python >= 3.10 and pip:
#   bash scripts/studio.sh
# Sets up .venv, then opens http://127.0.0.1:7860. Arguments go to scripts/studio.py (--help lists them).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/studio.py" "$@"
