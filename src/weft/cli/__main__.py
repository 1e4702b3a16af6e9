"""`python -m weft.cli`, which `accelerate launch -m` needs."""

import sys

from weft.cli.app import main

sys.exit(main())
