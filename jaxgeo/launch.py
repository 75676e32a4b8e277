"""`jaxgeo launch`: the same program several times on this machine, as the processes of one `jax.distributed`.

The program calls `jaxgeo.training.processes.connect()` first. On a cluster its own launcher does this work (`srun`,
`mpirun`, a Kubernetes job with an index), and `connect` finds what that says.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from jaxgeo.errors import ConfigError
from jaxgeo.flags import Command

_GRACE_S = 10.0
_LOOK_EVERY_S = 0.05


def run(argv: Sequence[str]) -> int:
    """Parse the words after `launch` and run them; the exit status is the first that is not 0."""
    parser = argparse.ArgumentParser(
        prog="jaxgeo launch",
        description="Run one program in several processes that share their devices by jax.distributed. When one ends "
        "with an error, or is killed, the others are stopped: begin it again, and a run with checkpoints goes on.",
        epilog="example: jaxgeo launch --processes 2 -- python train.py --out runs/big",
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices of each process (default 1)")
    parser.add_argument("--port", type=int, default=0, help="of the coordinator; 0 (the default) takes a free one")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="-- and then the program with its arguments")
    args = parser.parse_args(argv)
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not program:
        raise ConfigError("jaxgeo launch needs a program: jaxgeo launch --processes 2 -- python train.py")
    return launch(program, args.processes, devices=args.devices, port=args.port)


def launch(program: Sequence[str], processes: int, *, devices: int = 1, port: int = 0) -> int:
    """Run a program in so many processes, and wait for all.

    Args:
        program: with its arguments.
        processes: at least one.
        devices: CPU devices of each. Of accelerators each process sees all, unless JAX_LOCAL_DEVICE_IDS names its
            own.
        port: of process 0, the coordinator; 0 takes a free one.

    Returns:
        0, or the exit status of the first process that failed (128 + its signal where it was killed), after the others
        have been stopped.

    Raises:
        ConfigError: fewer than one process or device, or a program that cannot be run.
    """
    if processes < 1 or devices < 1:
        raise ConfigError(f"there must be at least 1 process and 1 device of each, got {processes} and {devices}")
    address = f"localhost:{port or _free_port()}"
    started: list[subprocess.Popen[bytes]] = []
    with _stopped_at_the_end(started):
        for index in range(processes):
            environment = os.environ | {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(index),
                "JAX_NUM_CPU_DEVICES": str(devices),
            }
            try:
                started.append(subprocess.Popen(list(program), env=environment))
            except OSError as error:
                raise ConfigError(f"{program[0]} cannot be run: {error.strerror}") from error
        return _wait(started)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in started]
        failed = [(index, code) for index, code in enumerate(codes) if code]
        if failed:
            index, code = failed[0]
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            print(f"jaxgeo launch: process {index} {how}; the others are stopped", file=sys.stderr)
            return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_LOOK_EVERY_S)


@contextlib.contextmanager
def _stopped_at_the_end(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Whatever happens, no process outlives this: first asked to stop, then killed."""
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in started:
                if process.poll() is None:
                    process.send_signal(number)
            until = time.monotonic() + _GRACE_S
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


COMMANDS: dict[str, Command] = {"launch": ("Run one program in several processes that share their devices.", run)}
"""the one that is here, as `jaxgeo.cli` takes them"""
