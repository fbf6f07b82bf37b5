"""`python -m fewseg.cli` is the `fewseg` command, as is `torchrun -m fewseg.cli`."""

import sys

from fewseg.cli import main

sys.exit(main())
