#!/usr/bin/env bash
# Set up .venv and run the tests (CPU, no network). Extra arguments go to pytest:
#   bash scripts/test.sh                 the default suite
#   bash scripts/test.sh -m slow         the slower ones
#   bash scripts/test.sh tests/core -x   a part
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
echo "test: ruff"
.venv/bin/python -m ruff check .
echo "test: pytest"
exec .venv/bin/python -m pytest --durations=15 "$@"
