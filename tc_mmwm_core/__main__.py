"""``python -m tc_mmwm_core`` is ``tc-mmwm``."""

import sys

from tc_mmwm_core.cli import main

sys.exit(main())
