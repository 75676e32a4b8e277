"""`python -m jaxgeo` is the command `jaxgeo`."""

import sys

from jaxgeo.cli import main

sys.exit(main())
