from .experiments import EXPERIMENTS as EXPERIMENTS
from .experiments import Experiment as Experiment
from .experiments import Variant as Variant
from .run import check_experiment as check_experiment
from .run import run_experiment as run_experiment
from .settings import Settings as Settings

__all__ = ["EXPERIMENTS", "Experiment", "Settings", "Variant", "check_experiment", "run_experiment"]
