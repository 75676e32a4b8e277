"""Measure `import jaxgeo` after jax and name the heavy packages that it pulled in; JSON, and status 1 if too much."""

import json
import subprocess
import sys

LIMIT_S = 1.0
HEAVY = ("tensorflow", "keras", "hls4ml", "numpyro", "hgq", "da4ml", "torch")
PROBE = """
import json, sys, time
import jax
start = time.perf_counter()
import jaxgeo
print(json.dumps(dict(seconds=time.perf_counter() - start, modules=sorted(sys.modules))))
"""


def main() -> int:
    """Probe three fresh interpreters and judge the median."""
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", PROBE])) for _ in range(3)]
    seconds = sorted(run["seconds"] for run in runs)[1]
    loaded = [name for name in HEAVY if name in runs[0]["modules"]]
    passed = seconds < LIMIT_S and not loaded
    print(json.dumps({"import_s": round(seconds, 4), "limit_s": LIMIT_S, "heavy_loaded": loaded, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
