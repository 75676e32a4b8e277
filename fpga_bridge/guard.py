"""Runs a command, and kills it with all its children as soon as the process that asked for it is gone.

python guard.py LIFELINE COMMAND [ARGUMENT ...]

LIFELINE is the reading end of a pipe whose other end only the asking process holds: whatever ends that process, a
`kill -9` included, closes the pipe. This process must lead a process group of its own.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading


def watch(lifeline: int) -> None:
    """Wait for the end of the pipe, into which nobody writes, and kill the group."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def run(lifeline: int, command: list[str]) -> int:
    """The status of the command, negative where a signal ended it; 127 where it cannot be started."""
    threading.Thread(target=watch, args=(lifeline,), daemon=True).start()
    try:
        return subprocess.run(command, check=False).returncode  # does not inherit the lifeline
    except OSError as error:
        print(f"{command[0]} cannot be started ({error.strerror})", file=sys.stderr)
        return 127


if __name__ == "__main__":
    _status = run(int(sys.argv[1]), sys.argv[2:])
    if _status < 0:  # end by the same signal, without a second core file
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError):
            signal.signal(-_status, signal.SIG_DFL)
        os.kill(os.getpid(), -_status)
    sys.exit(_status)
