"""fewseg: teach a class with a few labelled images, get its mask in any other image.

The names of the public surface stand in `__init__.pyi`. Each is imported when it is first used, so that `import fewseg`
and `fewseg --help` load neither torch nor timm.
"""

import lazy_loader

from fewseg.core.renamed_modules import find_renamed_modules

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
find_renamed_modules()
