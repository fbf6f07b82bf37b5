"""Choices that options name and several layers read; nothing here needs torch."""

from __future__ import annotations

from typing import Literal

Resize = Literal["square", "padded"]
"""How an image is fitted to the model's square input.

`square`: resized to the square, whatever its aspect ratio. `padded`: aspect ratio kept, the rest of the square padded.
"""

Scoring = Literal["original", "model"]
"""Where prediction and truth are compared: at the query's own size, or at the model's input size."""

Queries = Literal["classes", "images", "pairs"]
"""How training queries are drawn.

`classes`: a class uniformly, then one of its images, with replacement. `images`: every image once an epoch, its class
uniformly among those that it shows. `pairs`: every (image, class) once an epoch.
"""

Fusion = Literal["one-pass", "vote", "average", "hsnet-vote", "guided"]
"""`one-pass` is the method's own n-shot inference; the others fuse n one-shot predictions (DCAMA, Table 4).

`vote`: foreground where more than half of the masks are. `average`: the mean of the foreground probabilities.
`hsnet-vote`: HSNet's, foreground where the votes reach half of the image's largest number of votes. `guided`: SCL's
cross-guided average, the sum of the logits, each weighted by how well its shot segments all the shots' images.
"""
