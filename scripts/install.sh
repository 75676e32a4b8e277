#!/bin/sh
# Make the virtual environment where it is missing and install a lock file and this project into it.
# Usage: install.sh PYTHON VENV LOCK [--with-dependencies]
set -eu
python=$1 venv=$2 lock=$3 dependencies=--no-deps
# The lock of the benchmarks names the peers only: what PyTorch needs beside itself depends on the machine's GPU.
[ "${4:-}" = --with-dependencies ] && dependencies=

if [ ! -x "$venv/bin/python" ]; then
    echo "making the environment $venv"
    # Debian ships venv in a package of its own; virtualenv, installed beside the project, does the same without it.
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        "$python" -m pip install --quiet --target .bootstrap virtualenv
        PYTHONPATH=.bootstrap "$python" -m virtualenv --quiet "$venv"
    fi
fi
echo "installing $lock into $venv (a minute or two)"
# shellcheck disable=SC2086
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check $dependencies -r "$lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
