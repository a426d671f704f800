"""Recipes of the papers and of the systems this toolkit grew from, as a table; a flag wins over its row."""

from dataclasses import dataclass
from typing import Any

from settings.recipes import (
    ADAM,
    CIFAR10_ADA,
    CYCLEGAN,
    DIGITS,
    INFOGAN,
    INFOGAN_JOINT,
    MNIST_MODES,
    MODES,
    OF_MNIST,
    OF_RING8,
    PAPER256,
    PIX2PIX,
    PIX2PIX_SOURCE,
    PROGAN,
    PROJECTED_FASTGAN,
    PROJECTED_SMALL,
    PROJECTED_STYLEGAN2,
    R3GAN_CIFAR10,
    R3GAN_FFHQ64,
    R3GAN_HALF,
    R3GAN_QUARTER,
    R3GAN_TINY,
    RING8,
    SMALL_DATA,
    SRGAN,
    STYLEGAN,
    STYLEGAN2,
    STYLEGAN2_AUTO,
    halflife,
)


@dataclass(frozen=True)
class Preset:
    """One recipe: its script (None: all of images), its settings, source, and the score published with it."""

    script: str | None
    settings: dict[str, Any]
    source: str
    score: str = ""


_MNIST = ADAM | {"model": "dcgan", "method": "gan", "batch_size": 32, "n_steps": 100_000}
# all of CelebA's 202,599 images, the test part included
_CELEBA = ADAM | {"split": "all", "model": "dcgan", "img_size": 64, "batch_size": 128, "n_steps": 100_000}
_CELEBA_WGAN = {
    "split": "all", "model": "dcgan", "method": "wgan", "img_size": 64, "batch_size": 64, "train_g_interval": 5,
    "optimizer": "RMSprop", "lr": 5e-5,
}  # fmt: skip
_RECT = {
    "model": "rect_dcgan", "method": "gan", "img_size": (157, 128), "z_dim": 100, "batch_size": 32, "n_steps": 127_165,
    "optimizer": "AdamW", "weight_decay": 0.01, "lr_d": 2e-3, "lr_g": 2e-4, "beta1": 0.5, "beta2": 0.999,
    "label_smoothing": 0.1, "d_kwargs": {"dropout": 0.3, "noise_std": 0.1}, "flip": False,
}  # fmt: skip
# xyfJASON's CIFAR-10 study: 40,000 updates of G after five of D each, batch norm in D throughout, no EMA.
_CIFAR = {
    "model": "simple_cnn", "method": "gan", "img_size": 32, "z_dim": 100, "batch_size": 512, "n_steps": 200_000,
    "train_g_interval": 5, "lr": 8e-4, "beta1": 0.5, "beta2": 0.999, "norm_d": "batch", "flip": True, "seed": 5678,
}  # fmt: skip
_GAU, _XYF, _SHELL = "gau-nernst/gan", "xyfJASON/GANs-Implementations", "Journey With GANs (ShellGAN)"
_FID = "FID 50k against the training set, of the source: "

# Its conditional rows, 40,000 updates of G too. There `concat` joins one-hot labels, here 64 learnt numbers: D's first
# layer and G's are larger than those behind the scores.
_CIFAR_LABELS = _CIFAR | {"conditional": True}
_HINGE = {"method": "hinge", "beta1": 0.0}
# Five updates of D for one of G as in the paper; rates fall to 0 over the whole run. Its G sees batches twice as large
# and its reals are dequantised by U(0, 1/128): not here.
_SNGAN = _HINGE | {
    "model": "sngan", "beta2": 0.9, "lr": 2e-4, "batch_size": 64, "train_g_interval": 5, "n_steps": 250_000,
    "lr_decay_from": 0, "img_size": 32, "flip": False,
}  # fmt: skip
_SAGAN = _HINGE | {
    "model": "sagan", "beta2": 0.9, "lr_g": 1e-4, "lr_d": 4e-4, "batch_size": 256, "n_steps": 1_000_000,
    "img_size": 128, "ema": True, "ema_warmup": 2000,
}  # fmt: skip
# 500 epochs of 50,000 images, each seen by D alone; G moves every fourth time. Its average is a copy for 1000 updates
# and keeps .9999 at each one from then on, without a ramp, as in the code: said as a half-life.
_BIGGAN = _HINGE | {
    "model": "biggan", "conditional": True, "beta2": 0.999, "lr": 2e-4, "batch_size": 50, "train_g_interval": 4,
    "n_steps": 500_000, "img_size": 32, "ema": True, "ema_halflife": halflife(0.9999, 4 * 50), "ema_warmup": 1000,
    "flip": True,
}  # fmt: skip
# The papers' batch is 2048: --accumulate cuts it, at the cost of other batch statistics. Adam's eps is torch's 1e-8 and
# not 1e-6. The orthogonal penalty, which the paper trains its largest models with, is an option of the code, which
# applies half of its gradient at the same 1e-4: that would be 5e-5 here. The paper's rates are 5e-5 and 2e-4, with two
# updates of D for one of G.
_BIGGAN128 = _BIGGAN | {
    "lr_g": 1e-4, "lr_d": 4e-4, "batch_size": 2048, "train_g_interval": 1, "n_steps": 150_000, "img_size": 128,
    "ema_halflife": halflife(0.9999, 2048), "ema_warmup": 20_000, "ortho_weight": 1e-4,
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "mnist-dcgan": Preset("gan_mnist", _MNIST, _GAU),
    "mnist-dcgan-conditional": Preset("gan_mnist", _MNIST | {"conditional": True}, _GAU),
    # 50 epochs; its images have 28 px and its DCGAN layers of 5x5
    "stacked-mnist": Preset(
        "gan_mnist",
        _MNIST | {"dataset": "stacked-mnist", "batch_size": 64, "z_dim": 100},
        "arXiv:1712.04086, Stacked MNIST",
    ),
    "mnist-infogan": Preset("gan_mnist", INFOGAN, "arXiv:1606.03657, its code's MNIST"),
    "mnist-infogan-joint": Preset("gan_mnist", INFOGAN_JOINT, _XYF),
    "digits": Preset("gan_mnist", DIGITS, "ours, `make demo`", "read as asked by digits-cnn: 99.6 to 99.9 %"),
    "celeba-dcgan": Preset("gan_celeba", _CELEBA | {"method": "gan", "ema": True}, _GAU),
    "celeba-dcgan-wgan": Preset("gan_celeba", _CELEBA_WGAN | {"n_steps": 100_000}, _GAU),
    # its 200,000 counted the updates of both networks
    "celeba-dcgan-wgan-2022": Preset(
        "gan_celeba", _CELEBA_WGAN | {"n_steps": 166_667}, _GAU + ", December 2022"
    ),
    "celeba-dcgan-64-wide": Preset(
        "gan_celeba",
        # 50 epochs of 202,599 images
        _CELEBA | {"z_dim": 100, "n_steps": 79_140, "g_kwargs": {"width": 100}, "d_kwargs": {"width": 100}},
        _SHELL,
    ),
    "celeba-dcgan-128": Preset(
        "gan_celeba",
        _CELEBA
        | {"img_size": 128, "z_dim": 100, "batch_size": 64, "n_steps": 158_280}
        | {"g_kwargs": {"width": 160}, "d_kwargs": {"width": 40}},
        _SHELL,
    ),
    # shown there after 5 to 37 epochs of 162,770 images; of the notebook's mistakes none is repeated
    "rect-dcgan": Preset("gan_celeba", _RECT, "IliaZenkov/DCGAN-Rectangular-GANHacks2"),
    "cifar10-gan": Preset("gan_cifar10", _CIFAR, _XYF, _FID + "24.73"),
    "cifar10-gan-r1": Preset("gan_cifar10", _CIFAR | {"r1_weight": 10.0}, _XYF, _FID + "24.15"),
    "cifar10-wgan": Preset(
        "gan_cifar10", _CIFAR | {"method": "wgan", "optimizer": "RMSprop", "lr": 2e-4}, _XYF, _FID + "49.92"
    ),
    "cifar10-wgan-gp": Preset(
        "gan_cifar10", _CIFAR | {"method": "wgan-gp", "beta2": 0.9}, _XYF, _FID + "28.80"
    ),
    "cifar10-sngan": Preset("gan_cifar10", _CIFAR | {"spectral_norm_d": True}, _XYF, _FID + "24.92"),
    "cifar10-sngan-hinge": Preset(
        "gan_cifar10", _CIFAR | {"method": "hinge", "spectral_norm_d": True}, _XYF, _FID + "28.52"
    ),
    "cifar10-lsgan": Preset("gan_cifar10", _CIFAR | {"method": "lsgan"}, _XYF, _FID + "28.49"),
    "cifar10-cgan": Preset("gan_cifar10", _CIFAR_LABELS | {"lr": 2e-4}, _XYF, _FID + "22.72, intra 44.05"),
    "cifar10-cgan-cbn": Preset(
        "gan_cifar10",
        _CIFAR_LABELS | {"lr": 2e-4, "condition_g": "cbn", "condition_d": "concat"},
        _XYF,
        _FID + "23.76, intra 45.78",
    ),
    "cifar10-acgan": Preset(
        "gan_cifar10",
        _CIFAR_LABELS | {"condition_g": "cbn", "condition_d": "ac"},
        _XYF,
        _FID + "19.92, intra 49.99",
    ),
    # listed there without settings or score
    "cifar10-sngan-projection": Preset(
        "gan_cifar10",
        _CIFAR_LABELS
        | {"condition_g": "cbn", "condition_d": "projection", "method": "hinge", "spectral_norm_d": True},
        _XYF,
    ),
    "sngan": Preset(None, _SNGAN, "arXiv:1802.05957, ResNet on CIFAR-10", "FID 10k/5k of the paper: 21.7"),
    "sngan-projection": Preset(
        None, _SNGAN | {"conditional": True}, "arXiv:1802.05637, CIFAR-10", "FID 10k/5k of the paper: 17.5"
    ),
    "sagan": Preset(
        None,
        _SAGAN | {"conditional": True, "ema_halflife": halflife(0.9999, 256)},
        "arXiv:1805.08318, ImageNet at 128 px; its average is BigGAN-PyTorch's",
    ),
    "celeba-sagan": Preset(
        "gan_celeba",
        _SAGAN
        | {"split": "all", "img_size": 64, "lr_g": 2e-4, "lr_d": 2e-4, "n_steps": 30_000}
        | {"ema_decay": (0.999,), "ema_warmup": 100, "flip": False},
        _GAU,
    ),
    "biggan-cifar10": Preset(
        None,
        _BIGGAN,
        "arXiv:1809.11096, its PyTorch code's CIFAR-10",
        "FID 10k of 1000 epochs, of 2006.10738: 9.59",
    ),
    "biggan": Preset(
        None,
        _BIGGAN128 | {"z_dim": 120},
        "arXiv:1809.11096, ImageNet at 128 px; its PyTorch code's 1e-4 is half of this --ortho_weight",
    ),
    "biggan-deep": Preset(
        None,
        _BIGGAN128 | {"g_kwargs": {"deep": True}, "d_kwargs": {"deep": True}},
        "arXiv:1809.11096 appendix B, ImageNet at 128 px",
    ),
    "progressive-gan": Preset(
        None, PROGAN, "arXiv:1710.10196 appendix A.1, batches of its code for 8 GPUs (the paper: 16 to 3)"
    ),
    "stylegan": Preset(None, STYLEGAN, "arXiv:1812.04948, batches and rates of its code for 8 GPUs"),
    "stylegan2": Preset(None, STYLEGAN2, "arXiv:1912.04958, configuration F"),
    "stylegan2-paper256": Preset(None, PAPER256, "arXiv:2006.06676, 256 px"),
    "stylegan2-auto": Preset(
        None, STYLEGAN2_AUTO, "arXiv:2006.06676, its code's choice: half the width below 512 px"
    ),
    "cifar10-stylegan2-ada": Preset(
        "gan_cifar10",
        CIFAR10_ADA,
        "arXiv:2006.06676, CIFAR-10, G's rate and beta2 as its code corrects them (the paper: .0025, .99)",
        "FID 50k, unconditional, of the paper: 2.92",
    ),
    "r3gan-cifar10": Preset(
        "gan_cifar10", R3GAN_CIFAR10, "arXiv:2501.05441, CIFAR-10", "FID 50k of the paper: 1.96"
    ),
    "r3gan-ffhq64": Preset(
        None,
        R3GAN_FFHQ64,
        "arXiv:2501.05441, FFHQ at 64 px, as long as its CIFAR-10",
        "FID 50k of the paper: 1.95",
    ),
    "r3gan-half": Preset(None, R3GAN_HALF, "ours, after arXiv:2501.05441, for one GPU"),
    "r3gan-quarter": Preset(None, R3GAN_QUARTER, "ours, after arXiv:2501.05441, for one small GPU"),
    "r3gan-tiny": Preset(None, R3GAN_TINY, "ours, after arXiv:2501.05441, for a CPU"),
    "projected-fastgan": Preset(None, PROJECTED_FASTGAN, "arXiv:2111.01007, its code's FastGAN at 256 px"),
    "projected-stylegan2": Preset(
        None, PROJECTED_STYLEGAN2, "arXiv:2111.01007, its code's StyleGAN2 at 256 px"
    ),
    "projected-small": Preset(None, PROJECTED_SMALL, "arXiv:2111.01007, narrow: 1,000 pictures on a CPU"),
    "pix2pix": Preset("gan_pairs", PIX2PIX, "arXiv:1611.07004, facades"),
    "pix2pix-source": Preset("gan_pairs", PIX2PIX_SOURCE, _GAU),
    "cyclegan": Preset("gan_pairs", CYCLEGAN, "arXiv:1703.10593, horse2zebra"),
    "srgan": Preset("gan_pairs", SRGAN, "arXiv:1609.04802, with L1 and Lite0's features"),
    "small-data": Preset(None, SMALL_DATA, "100 to 1,000 pictures of any size: arXiv:2006.06676, narrow"),
    **{
        f"ring8-{name}": Preset("gan_ring8", row | RING8 | OF_RING8.get(name, {}), _XYF)
        for name, row in MODES.items()
    },
    **{
        f"mnist-modes-{name}": Preset("gan_mnist", row | MNIST_MODES | OF_MNIST.get(name, {}), _XYF)
        for name, row in MODES.items()
    },
}
