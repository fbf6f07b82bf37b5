"""VGG-16 (Simonyan and Zisserman, ICLR 2015) as HSNet's paper takes its maps.

Those of every convolution of its last two blocks, before the ReLU, at scales 1/8 and 1/16, and that of the last
max-pooling at 1/32: three, three and one. The layers are named as torchvision names them.
"""

from __future__ import annotations

from torch import Tensor, nn

from fewseg.core.errors import InvalidOption
from fewseg.models.backbones.base import BackboneSpec, FeaturePyramid

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions; a max-pooling follows every block."""


class VGG16(nn.Module):
    """The convolutions, max-poolings and ReLUs of VGG-16, as torchvision's `features`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in BLOCKS:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)


class VGG16Pyramid(FeaturePyramid):
    """The convolutions' maps of the last two blocks, then the last max-pooling's."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__(spec)
        if spec.options:
            raise InvalidOption(f"backbone {spec.name} takes no options: leave out {', '.join(spec.options)}")
        self.net = VGG16()
        self.blocks = self._measure(64)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        net: VGG16 = self.net  # type: ignore[assignment]
        first = 2 * sum(map(len, BLOCKS[:3])) + 3
        x, maps = net.features[:first](images), []
        for layer in net.features[first:]:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                maps.append(x)
        return [*maps, x]
