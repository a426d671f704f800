"""pix2pix's discriminator, which judges overlapping patches of an image, beside what it was made of. arXiv:1611.07004.

As in the authors' code, which the paper's figures are of, the last but one convolution has stride 1, whence patches of
70 px with three halvings; and a layer before a norm has a bias where the norm brings no shift. The default norm is
instance norm, which batch norm is in the paper's batches of one picture.
"""

import itertools

import torch
from torch import Tensor, nn

from errors import UserError
from modelling.layers import (
    Size,
    as_size,
    check_images,
    check_number,
    has_shift,
    hidden_block,
    image_shape,
    init_normal,
    norm_layer,
    size_text,
    widths,
)


def least_side(n_layers: int, last_kernel: int) -> int:
    """The least side in px of an image: no norm sees a single position, and at least one patch is judged."""
    return (2 if n_layers == 0 or last_kernel % 2 else 3) << n_layers


def check_side(img_size: Size, n_layers: int, last_kernel: int) -> None:
    """UserError for images that are too small."""
    least = least_side(n_layers, last_kernel)
    if min(image_shape(img_size)) < least:
        fewer = " or fewer n_layers" if n_layers else ""
        raise UserError(
            f"patchgan of n_layers {n_layers} and last_kernel {last_kernel} takes sides of at least {least} px, not "
            f"{size_text(as_size(img_size))}: give a larger --img_size{fewer}"
        )


def layer(c_in: int, c_out: int, kernel: int, stride: int, norm: str) -> nn.Sequential:
    """Convolution with zeros around, norm, LeakyReLU."""
    after = norm_layer(norm, c_out)
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, bias=not has_shift(after))
    return hidden_block(convolution, after, "leaky_relu")


class Discriminator(nn.Module):
    """Images (N, img_channels, H, W) and what they were made of -> logits (N, 1, h, w), one a patch.

    source_channels: of what they were made of, 0 where it is not shown. n_layers halve the maps with kernels of 4, then
    two convolutions with kernels of last_kernel; 0: three convolutions of single pixels. width: channels after the
    first layer, doubled a layer, up to 8 times. norm is not on the first layer. ValueError for images that are too
    small and settings out of range.
    """

    def __init__(
        self,
        *,
        img_size: Size,
        img_channels: int,
        source_channels: int = 0,
        n_layers: int = 3,
        norm: str = "instance",
        width: int = 64,
        last_kernel: int = 4,
    ) -> None:
        super().__init__()
        check_number("source_channels", source_channels, 0, whole=True)
        check_number("n_layers", n_layers, 0, 9, whole=True)
        check_number("last_kernel", last_kernel, 1, 9, whole=True)
        for name, value in (("img_channels", img_channels), ("width", width)):
            check_number(name, value, 1, whole=True)
        check_side(img_size, n_layers, last_kernel)
        self.img_size, self.img_channels = as_size(img_size), img_channels
        self.source_channels = source_channels
        last = last_kernel if n_layers else 1
        kernels = [(4, 2)] * n_layers + [(last, 1)] * (1 if n_layers else 2)
        channels = [source_channels + img_channels, *widths(width, len(kernels))]
        self.blocks = nn.Sequential(
            *(
                layer(*c, *kernel, norm if i else "none")
                for i, (c, kernel) in enumerate(zip(itertools.pairwise(channels), kernels, strict=True))
            )
        )
        self.to_logits = nn.Conv2d(channels[-1], 1, last, 1, (last - 1) // 2)
        init_normal(self)

    @property
    def receptive_field(self) -> int:
        """The side in px of the patch that a logit is of, what hangs over the image's edge included."""
        side = 1
        for module in reversed([m for m in self.modules() if isinstance(m, nn.Conv2d)]):
            side = (side - 1) * module.stride[0] + module.kernel_size[0]
        return side

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """ValueError unless x, and source where there are source_channels, have the network's shapes."""
        check_images(x, self.img_channels, self.img_size)
        wanted = (len(x), self.source_channels, *x.shape[2:]) if self.source_channels else None
        given = None if source is None else tuple(source.shape)
        if given != wanted:
            source_text = f"a source of shape {wanted}" if wanted else "no source"
            raise ValueError(
                f"D takes {source_text} beside images of shape {tuple(x.shape)}, and was given {given or 'none'}"
            )
        return self.to_logits(self.blocks(x if source is None else torch.cat([source, x], 1)))
