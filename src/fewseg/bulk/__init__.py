"""Thousands of pictures: the steps that each goes through, and the engines that keep a machine or a cluster busy."""

from fewseg.bulk.options import BatchOptions, Engine
from fewseg.bulk.pictures import Outcome, PictureWork, Task

__all__ = ["BatchOptions", "Engine", "Outcome", "PictureWork", "Task"]
