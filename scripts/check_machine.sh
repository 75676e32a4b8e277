#!/bin/sh
# Says at once, in one sentence each, what this machine lacks. Usage: check_machine.sh PYTHON
python=$1
status=0
if ! command -v "$python" >/dev/null 2>&1; then
    echo "jaxgeo needs Python 3.11 or newer and found none; on Debian or Ubuntu: apt install python3 python3-pip" >&2
    status=1
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "jaxgeo needs Python 3.11 or newer, but $python is $("$python" -c 'import platform; print(platform.python_version())');" \
        "install a newer one and name it: make PYTHON=/path/to/python3.11" >&2
    status=1
elif ! "$python" -c 'import ensurepip' >/dev/null 2>&1 && ! "$python" -c 'import pip' >/dev/null 2>&1; then
    echo "jaxgeo needs pip for $python; on Debian or Ubuntu: apt install python3-pip" >&2
    status=1
fi
if ! command -v g++ >/dev/null 2>&1; then
    echo "jaxgeo compiles its fixed-point networks with g++, which is missing; on Debian or Ubuntu: apt install g++" >&2
    status=1
fi
exit $status
