"""`python -m fpga_bridge` is the command `fpga-bridge`."""

import sys

from fpga_bridge.cli import main

sys.exit(main())
