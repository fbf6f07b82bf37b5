"""`python -m fewseg` is the `fewseg` command."""

import sys

from fewseg.cli import main

sys.exit(main())
