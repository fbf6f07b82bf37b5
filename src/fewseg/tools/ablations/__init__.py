"""Every experiment of the DCAMA paper beside its main tables, as data that any dataset can be put through."""

from fewseg.tools.ablations.experiments import EXPERIMENTS, Experiment, Variant
from fewseg.tools.ablations.run import check_experiment, run_experiment
from fewseg.tools.ablations.settings import Settings

__all__ = ["EXPERIMENTS", "Experiment", "Settings", "Variant", "check_experiment", "run_experiment"]
