"""`python -m tokenhub_proxy` is the command line."""

import sys

from tokenhub_proxy.cli import main

sys.exit(main())
