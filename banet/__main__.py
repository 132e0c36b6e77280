"""`python -m banet` is the command `banet`."""

from __future__ import annotations

import sys

from banet.cli import main

sys.exit(main())
