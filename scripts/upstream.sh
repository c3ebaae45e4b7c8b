#!/usr/bin/env bash
# threestudio itself, unmodified, on any machine: bash scripts/upstream.sh CHECKOUT --config F --train key=value ...
# Sets up .venv and the few packages that only threestudio imports, then runs CHECKOUT's own launcher with torch stand-ins
# for tiny-cuda-nn, nvdiffrast and nerfacc where these do not work. Configurations: CHECKOUT's own, and ours in configs/.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ $# -lt 2 ] || [ ! -f "$1/threestudio/__init__.py" ]; then
    echo 'usage: bash scripts/upstream.sh CHECKOUT --config FILE --train|--validate|--test|--export key=value ...' >&2
    echo '       CHECKOUT: git clone https://github.com/threestudio-project/threestudio' >&2
    exit 2
fi
checkout="$(cd "$1" && pwd)"
shift
bash "$root/scripts/setup.sh"
python="$root/.venv/bin/python"
missing="$("$python" -c 'from uni_instruct_3d.upstream.packages import missing_packages; print(*missing_packages())')"
if [ -n "$missing" ]; then
    echo "upstream: installing $missing"
    # shellcheck disable=SC2086  several names
    "$python" -m pip install --quiet --disable-pip-version-check $missing
fi
THREESTUDIO="$checkout" exec "$python" "$root/launch.py" --host threestudio "$@"
