"""What `helpers.forked` imports before it forks."""

# ruff: noqa: F401
import fewseg.batch.run
import fewseg.cli.entry
import fewseg.cli.evaluate
import fewseg.cli.parser
import fewseg.cli.prepare
import fewseg.cli.segment
import fewseg.cli.serve
import fewseg.cli.train
import fewseg.evaluation.run
import fewseg.inference.segmenter
import fewseg.server.app
import fewseg.server.connections
import fewseg.training.train
import helpers.forked
