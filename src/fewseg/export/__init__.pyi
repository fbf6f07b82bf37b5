from .options import GraphOptions as GraphOptions
from .run import GraphReport as GraphReport
from .run import export_method as export_method
from .segmenter import export_segmenter as export_segmenter
from .supports import check_supports as check_supports
from .supports import save_supports as save_supports

__all__ = ["GraphOptions", "GraphReport", "check_supports", "export_method", "export_segmenter", "save_supports"]
