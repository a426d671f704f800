"""Small classifiers that serve as offline extractors: uint8 images in, features and logits out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RESIZE = "bilinear with antialias to {0} x {0} where the size differs"


def check_pixels(images: Tensor) -> None:
    """ValueError unless they are uint8 (N, 1 or 3, H, W)."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        given = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"the extractor reads uint8 images (N, 1 or 3, H, W), got {given}")


def prepared(images: Tensor, size: int, channels: int, dtype: torch.dtype) -> Tensor:
    """uint8 (N, 1 or 3, H, W) -> (N, channels, size, size) in [-1, 1] of a dtype, rectangles squeezed.

    Colour is weighed to grey by ITU-R 601, grey repeated to colour. ValueError for anything else.
    """
    check_pixels(images)
    x = images.to(dtype) / 127.5 - 1
    if x.shape[1] == 3 and channels == 1:
        x = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return x.expand(-1, channels, -1, -1)


class DigitCNN(nn.Module):
    """Reads digits in 32 x 32 grey: three convolutions with pooling, 128 features, 10 logits; 188,234 parameters."""

    size = 32
    channels = 1
    n_features = 128
    resize = f"grey (ITU-R 601), {_RESIZE.format(size)}"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.dense = nn.Linear(64 * 4 * 4, self.n_features)
        self.head = nn.Linear(self.n_features, 10)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) -> (N, 1, 32, 32) in [-1, 1], rectangles squeezed; ValueError for others."""
        return prepared(images, self.size, self.channels, self.head.weight.dtype)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared images (N, 1, 32, 32) -> features (N, 128) after their ReLU, logits (N, 10)."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = F.dropout(x, 0.25, self.training)
        # (N, C, H, W) -> (N, C * H * W)
        features = F.relu(self.dense(x.flatten(1)))
        return features, self.head(F.dropout(features, 0.5, self.training))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) -> features (N, 128), logits (N, 10)."""
        return self.read(self.prepare(images))


class StackedDigitCNN(nn.Module):
    """Reads the digit in each channel of a colour image by one DigitCNN: 3 x 128 features, 1000 joint logits.

    Class 100 a + 10 b + c shows a in red, b in green, c in blue; its logit is the sum of their log probabilities.
    Weights are those of the DigitCNN, under its names: one file serves both. Stacked MNIST as in arXiv:1712.04086.
    """

    size = 32
    channels = 3
    n_features = 3 * DigitCNN.n_features
    resize = f"each channel as an image of its own, {_RESIZE.format(size)}"

    def __init__(self) -> None:
        super().__init__()
        self.digit = DigitCNN()

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The DigitCNN's."""
        return self.digit.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """The DigitCNN's."""
        return self.digit.load_state_dict(*args, **kwargs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 3, H, W) -> features (N, 384), logits (N, 1000); ValueError for grey images."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the extractor reads a digit in each of 3 channels, got {tuple(images.shape)}")
        # (N, 3, H, W) -> (3 N, 1, H, W), and back with what was read
        features, logits = self.digit(images.flatten(0, 1).unsqueeze(1))
        features, digits = features.unflatten(0, (-1, 3)), logits.log_softmax(1).unflatten(0, (-1, 3))
        # (N, 10, 1, 1) + (N, 1, 10, 1) + (N, 1, 1, 10) -> (N, 1000)
        joint = digits[:, 0, :, None, None] + digits[:, 1, None, :, None] + digits[:, 2, None, None, :]
        return features.flatten(1), joint.flatten(1)


class ResidualBlock(nn.Module):
    """x + two convolutions of 3x3 with batch norm and ReLU. arXiv:1512.03385."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv_block(channels, channels) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.convs(x)


def conv_block(c_in: int, c_out: int) -> nn.Sequential:
    """3x3, batch norm, ReLU."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class ColourCNN(nn.Module):
    """Reads colour images of a size: a small residual network, 256 features, n_classes logits.

    Widths are chosen for training on two CPU cores: 25 million multiplications an image of 32 x 32.
    """

    channels = 3
    n_features = 256

    def __init__(self, n_classes: int, size: int = 32) -> None:
        super().__init__()
        self.size = size
        self.resize = f"colour, {_RESIZE.format(size)}"
        pool = nn.MaxPool2d(2)
        self.maps = nn.Sequential(
            conv_block(3, 32), pool,
            conv_block(32, 64), pool, ResidualBlock(64),
            conv_block(64, 128), pool, ResidualBlock(128),
            conv_block(128, self.n_features),
        )  # fmt: skip
        self.head = nn.Linear(self.n_features, n_classes)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) -> (N, 3, size, size) in [-1, 1], rectangles squeezed; ValueError for others."""
        return prepared(images, self.size, self.channels, self.head.weight.dtype)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared images (N, 3, size, size) -> features (N, 256), means of the last maps, logits (N, K)."""
        # (N, C, H, W) -> (N, C)
        features = self.maps(x).mean((2, 3))
        return features, self.head(features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) -> features (N, 256), logits (N, K)."""
        return self.read(self.prepare(images))
