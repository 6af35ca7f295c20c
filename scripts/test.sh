#!/usr/bin/env bash
# Run all tests, in .venv (made if it is not there). Arguments go to pytest.

if [[ ${1:-} == --help ]]; then
    echo "usage: scripts/test.sh [pytest arguments]"
    echo "Checks the style (ruff) and types (mypy), and runs all tests (pytest, two processes): 10 to 15 minutes on 2 cores,"
    echo "in .venv, made if missing."
    exit 0
fi
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check .
mypy
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
echo "Next: scripts/quickstart.sh trains a small model and generates with it; README.md has the commands for your own checkpoint."
