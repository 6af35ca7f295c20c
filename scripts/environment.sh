# shellcheck shell=bash
# Sourced by the other scripts: sets ROOT, goes there, and makes or updates .venv with the tested versions.

set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"

# A Python that fairseq was tested with: the first of the usual names that runs and is 3.11 or 3.12.
find_python() {
    local name
    for name in python3.11 python3.12 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "el_fairseq needs Python 3.11 or 3.12, and none of python3.11, python3.12, python3, python is one." >&2
    return 1
}

# A line for each package that pip collects and for each large download, of all that pip says.
install_progress() {
    sed -unE -e 's/^Collecting ([^ ]+).*/    \1/p' -e 's/^ +Downloading .*\(([0-9.]+ [MG]B)\)/        \1/p' \
        -e 's/^Installing collected packages.*/    installing them/p'
}

ensure_environment() {
    local stamp=.venv/el_fairseq.installed state python
    # The package is installed as a link to this folder: what changes in it is there at once, without another install.
    state="$(cat setup.py constraints.txt pyproject.toml | cksum)"
    if [[ -f $stamp && $(cat "$stamp") == "$state" ]]; then
        return
    fi
    if [[ ! -x .venv/bin/python ]]; then
        python="$(find_python)"
        echo "Making .venv with $("$python" --version) and installing fairseq, PyTorch and this package into it, in the versions"
        echo "of constraints.txt. It is done once, and takes about 2 minutes: 2.5 GB on disk, 6 GB where pip finds PyTorch with CUDA"
        echo "only. README.md, 'Install', says how to get the smaller one."
        "$python" -m venv .venv
    fi
    .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt setuptools
    .venv/bin/python -m pip install --disable-pip-version-check --no-build-isolation --no-compile -c constraints.txt \
        --editable ".[test,quickstart,gpt2]" | install_progress
    echo "    compiling them" # pip would do it on one core; files that are no Python, which packages have, are no failure
    .venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null || true
    echo "$state" >"$stamp"
}

ensure_environment
export PATH="$ROOT/.venv/bin:$PATH"
