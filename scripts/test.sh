#!/usr/bin/env bash
# Set up .venv and run the tests (CPU, no network). Extra arguments go to pytest:
#   bash scripts/test.sh                 the default suite, on all cores up to eight
#   bash scripts/test.sh -m slow         the slower ones, in one process, as everything that is asked for by arguments
#   bash scripts/test.sh tests/core -x   a part; -n 4 for four processes
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
echo "test: ruff"
.venv/bin/python -m ruff check .
echo "test: pytest"
if [ $# -eq 0 ]; then
    # halves that stay in order share their fixtures; whoever is done first takes from the other
    set -- -n logical --maxprocesses 8 --dist worksteal
fi
exec .venv/bin/python -m pytest --durations=15 "$@"
