"""Settings that several presets share, and the longest: NVIDIA's family, little data, R3GAN, studies of modes."""

import math
from typing import Any

ADAM = {"lr": 2e-4, "beta1": 0.5, "beta2": 0.999}  # DCGAN's, and pix2pix's


def halflife(decay: float, images: int) -> tuple[float]:
    """The half-life in images of an average that keeps `decay` at each update, one after so many images."""
    return (float(round(images * math.log(0.5) / math.log(decay))),)


# Adam with beta1 0 everywhere in this family; the half-life of 10,000 images is that of NVIDIA's averages.
_NVIDIA = {"z_dim": 512, "beta1": 0.0, "beta2": 0.99, "ema": True, "ema_halflife": (10_000.0,)}
# Of both codes for 8 GPUs; the paper of the first has 16 images, from 256 px on 14, 6 and 3.
_BATCHES = {"batch_size": 32, "batch_by_size": {"4": 512, "8": 256, "16": 128, "32": 64}}

# 19 million images at any size from 64 px on; 800,000 images a size and a fade, as for LSUN and in the first code,
# would be --stable_kimg 800 --fade_kimg 800. The rate at 1024 px is that of the code for one GPU, of .001 elsewhere as
# the paper says; its configuration for 8 GPUs has StyleGAN's rates.
PROGAN: dict[str, Any] = _NVIDIA | _BATCHES | {
    "model": "progressive_gan", "method": "wgan-gp", "drift_penalty": 0.001, "lr": 1e-3,
    "lr_by_size": {"1024": 1.5e-3}, "n_steps": 496_485,
}  # fmt: skip
# 25 million images at any size from 64 px on; it starts at 8 px.
STYLEGAN: dict[str, Any] = _NVIDIA | _BATCHES | {
    "model": "stylegan", "method": "gan", "r1_weight": 10.0, "lr": 1e-3, "flip": True, "n_steps": 717_969,
    "batch_by_size": {"8": 256, "16": 128, "32": 64},
    "lr_by_size": {"128": 1.5e-3, "256": 2e-3, "512": 3e-3, "1024": 3e-3},
}  # fmt: skip
STYLEGAN2: dict[str, Any] = _NVIDIA | {
    "model": "stylegan2", "method": "gan", "flip": True, "lr": 2e-3, "batch_size": 32, "r1_weight": 10.0,
    "penalty_interval": {"r1": 16}, "path_length_weight": 2.0, "n_steps": 781_250,
}  # fmt: skip
_HALF_WIDTH = {"channel_base": 16384}
PAPER256: dict[str, Any] = STYLEGAN2 | {
    "lr": 2.5e-3, "batch_size": 64, "r1_weight": 1.0, "ema_halflife": (20_000.0,), "augment": ("ada",),
    "n_steps": 390_625, "img_size": 256, "g_kwargs": _HALF_WIDTH, "d_kwargs": _HALF_WIDTH | {"group_size": 8},
}  # fmt: skip
_AUTO = {
    "lr": "auto", "batch_size": "auto", "r1_weight": "auto", "ema_halflife": ("auto",), "ema_rampup": 0.05,
    "augment": ("ada",),
}  # fmt: skip
STYLEGAN2_AUTO: dict[str, Any] = STYLEGAN2 | _AUTO | {
    "n_steps": "auto",
    "g_kwargs": {"channel_base": "auto", "mapping_layers": 2}, "d_kwargs": {"channel_base": "auto"},
}  # fmt: skip
# The code corrects G's lr .0025 and beta2 .99 for a lazy penalty at each 4th step, although path length is off: both
# to the power, or times, 4/5.
CIFAR10_ADA: dict[str, Any] = STYLEGAN2 | {
    "lr": 2e-3, "lr_d": 2.5e-3, "beta2_g": 0.99**0.8, "batch_size": 64, "r1_weight": 0.01,
    "ema_halflife": (500_000.0,), "ema_rampup": 0.05, "path_length_weight": None, "augment": ("ada",),
    "n_steps": 1_562_500, "flip": False, "g_kwargs": {"mapping_layers": 2, "mixing": 0.0},
    "d_kwargs": {"architecture": "orig", "group_size": 32},
}  # fmt: skip

# 100 to 1,000 pictures. Narrow, since fewer pictures bear less (arXiv:2101.04775), and a CPU trains it at 64 px: 32
# channels at the full size, at most 256. R1, rates, batch and average follow the size as in STYLEGAN2_AUTO. D knows so
# few pictures by heart within some ten thousand images: the strength of ADA can go all the way in 100,000 images, as
# for transfer learning in arXiv:2006.06676, in place of 500,000. Path length costs a quarter of the time and is left
# out. Mirrored only if asked: --flip.
_NARROW = {"channel_base": "narrow", "channel_max": 256}
SMALL_DATA: dict[str, Any] = STYLEGAN2 | _AUTO | {
    "path_length_weight": None, "ada_kimg": 100.0, "n_steps": 25_000, "flip": False,
    "g_kwargs": _NARROW | {"mapping_layers": 2}, "d_kwargs": _NARROW,
}  # fmt: skip

# 10 million images, mirrored: our choice; a half-life of 20,000 images is its average for batches of 64.
_PROJECTED = {
    "model": "projected", "method": "hinge", "lr": 2e-4, "beta1": 0.0, "beta2": 0.99, "batch_size": 64,
    "augment": ("color", "translation", "cutout"), "ema": True, "ema_halflife": (20_000.0,), "flip": True,
}  # fmt: skip
PROJECTED_FASTGAN: dict[str, Any] = _PROJECTED | {
    "z_dim": 256, "n_steps": 156_250, "img_size": 256, "g_kwargs": {"lite": False},
}  # fmt: skip
PROJECTED_STYLEGAN2: dict[str, Any] = _PROJECTED | {
    "model": "projected_stylegan2", "lr": 2e-3, "z_dim": 512, "n_steps": 156_250, "img_size": 256,
    "d_kwargs": {"separable": True},
}  # fmt: skip
# For a CPU: D reads at 128 px, with heads of half the width.
PROJECTED_SMALL: dict[str, Any] = _PROJECTED | {
    "z_dim": 128, "batch_size": 16, "n_steps": 3000, "img_size": 64, "ema_halflife": (5000.0,), "ema_rampup": 0.05,
    "g_kwargs": {"width": 24}, "d_kwargs": {"width": 32, "resolution": 128},
}  # fmt: skip

# 200 epochs of the 400 facades, in batches of one; its second half with rates that fall to 0. Norms are instance norms,
# which batch norm is there. One optimiser's Adam for all.
PIX2PIX: dict[str, Any] = ADAM | {
    "model": "pix2pix", "method": "gan", "img_size": 256, "load_size": 286, "batch_size": 1, "n_steps": 80_000,
    "lr_decay_from": 40_000, "flip": True, "ema": False, "term_weights": {"l1": 100.0},
    "g_kwargs": {"sampling_dropout": True},
}  # fmt: skip
# Its random translations of up to a fifth are here pieces of pictures a fifth larger.
PIX2PIX_SOURCE: dict[str, Any] = ADAM | {
    "model": "pix2pix", "method": "gan", "img_size": 256, "load_size": 307, "batch_size": 16, "n_steps": 30_000,
    "flip": True, "ema": True, "term_weights": {"l1": 100.0}, "norm_g": "instance", "norm_d": "instance",
    "g_kwargs": {"depth": 7, "dropout": 0.0}, "d_kwargs": {"last_kernel": 3},
}  # fmt: skip
# 200 epochs of horse2zebra's 1,334 zebras.
CYCLEGAN: dict[str, Any] = ADAM | {
    "model": "cyclegan", "method": "lsgan", "img_size": 256, "load_size": 286, "batch_size": 1, "n_steps": 266_800,
    "lr_decay_from": 133_400, "flip": True, "ema": False, "pool_size": 50,
    "term_weights": {"cycle": 10.0, "identity": 5.0},
}  # fmt: skip
# The paper first trains G for a million updates by the mean squared error alone: `--term_weights adversarial=0
# features=0`, then --init_from. Its rate falls to a tenth in one step, here to 0 along a line.
SRGAN: dict[str, Any] = {
    "model": "srgan", "method": "gan", "img_size": 96, "batch_size": 16, "n_steps": 200_000, "lr": 1e-4, "beta1": 0.9,
    "lr_decay_from": 100_000, "flip": True, "ema": True, "factor": 4,
}  # fmt: skip

# The embedded digits in minutes on two cores. Narrow, since small steps taken often draw better here than wide ones
# taken seldom; no norm in D; rates that fall to 0 over the second half, which takes the specks off the paper. R1's
# weight is six times what SMALL_DATA's rule gives for this size and batch.
DIGITS: dict[str, Any] = {
    "dataset": "digits", "model": "dcgan", "method": "gan", "img_size": 32, "z_dim": 32, "conditional": True,
    "condition_g": "cbn", "condition_d": "projection", "batch_size": 32, "n_steps": 2500, "lr": 1e-3,
    "lr_decay_from": 1250, "beta1": 0.0, "beta2": 0.99, "r1_weight": 0.04, "penalty_interval": {"r1": 4},
    "ema": True, "ema_halflife": (5000.0,),
    "g_kwargs": {"width": 24}, "d_kwargs": {"width": 24, "minibatch_stddev": True},
}  # fmt: skip

# arXiv:2501.05441, appendix D, and the settings of its published code: rates, beta2, gamma, the average's half-life and
# the augmentation's strength go along half a cosine over the first T = 20 million images of 250, and stay. Its bf16 for
# the highest resolutions (n_half) is --mixed_precision bf16.
_R3GAN = {
    "model": "r3gan", "method": "rpgan", "penalty": ("r1", "r2"), "fresh_reals": True, "z_dim": 64, "beta1": 0.0,
    "ema": True,
}  # fmt: skip
_R3GAN_ADA = {"augment": ("ada",), "ada_pipe": "r3gan", "ada_interval": 0}


def moving(kimg: int, gamma: str, halflife: str, ada_p: str | None, **others: str) -> dict[str, str]:
    """A schedule of R3GAN: FROM:TO of gamma, half-life in images and ADA's p, over so many thousand images."""
    ends = {"lr": "2e-4:5e-5", "beta2": ".9:.99"} | others
    ends |= {"r1": gamma, "r2": gamma, "ema_halflife": halflife}
    ends |= {} if ada_p is None else {"ada_p": ada_p}
    return {name: f"{pair}:{kimg}" for name, pair in ends.items()}


def narrow(width: int) -> dict[str, Any]:
    """G's and D's settings for that width up to 32 px, half of it at 64 px, and so on."""
    how = {"channel_base": 32 * width, "channel_max": width, "n_half": 3}
    return {"g_kwargs": how, "d_kwargs": how}


R3GAN_CIFAR10: dict[str, Any] = _R3GAN | _R3GAN_ADA | narrow(768) | {
    "conditional": True, "img_size": 32, "flip": True, "batch_size": 512, "n_steps": 488_281,
    "schedule": moving(20_000, ".05:.005", "0:5e6", "0:.55"),
}  # fmt: skip
R3GAN_FFHQ64: dict[str, Any] = _R3GAN | _R3GAN_ADA | {
    "img_size": 64, "flip": True, "batch_size": 256, "n_steps": 976_562,
    "schedule": moving(20_000, "2:.2", "0:5e5", "0:.3"),
}  # fmt: skip
# A half and a quarter of the width, for one GPU, in 25 and 10 million images; T and half-lives in proportion.
R3GAN_HALF: dict[str, Any] = _R3GAN | _R3GAN_ADA | narrow(384) | {
    "img_size": 32, "batch_size": 256, "n_steps": 97_656,
    "schedule": moving(2000, ".05:.005", "0:5e5", "0:.55"),
}  # fmt: skip
R3GAN_QUARTER: dict[str, Any] = _R3GAN | _R3GAN_ADA | narrow(192) | {
    "img_size": 32, "batch_size": 128, "n_steps": 78_125,
    "schedule": moving(800, ".05:.005", "0:2e5", "0:.3"),
}  # fmt: skip
# For two cores of a CPU, of which the published 32 px and 4 levels of equal width would take ten times as much: 96, 64,
# 32 and 16 channels from 4 to 32 px, a block a level, no augmentation in so short a run. Small batches: gamma as much
# larger as they are smaller (arXiv:2006.06676's rule), beta2 nearer to 1; narrow layers bear higher rates.
_TINY = {"channel_base": 512, "channel_max": 96, "n_blocks": 1}
R3GAN_TINY: dict[str, Any] = _R3GAN | {
    "img_size": 32, "batch_size": 32, "n_steps": 20_000, "g_kwargs": _TINY, "d_kwargs": _TINY,
    "schedule": moving(50, "1:.1", "0:10000", None, lr="5e-4:2e-4", beta2=".95:.99"),
}  # fmt: skip

# The mode-collapse study of xyfJASON: small fully connected networks, batches of 256, five updates of D for one of G.
# It shows pictures; the scores measured here stand in docs/mode_collapse.md. R1's weight is not stated for this study
# and is that of its CIFAR-10 row. hinge and rpgan-r1-r2 (arXiv:2501.05441) are ours.
MODES: dict[str, dict[str, Any]] = {
    "gan": {"method": "gan", "beta1": 0.9},
    "gan-r1": {"method": "gan", "beta1": 0.9, "r1_weight": 10.0},
    "wgan": {"method": "wgan", "optimizer": "RMSprop"},
    "wgan-gp": {"method": "wgan-gp", "beta2": 0.9},
    "sngan": {"method": "gan", "spectral_norm_d": True},
    "lsgan": {"method": "lsgan"},
    "veegan": {"model": "veegan", "method": "gan"},
    "hinge": {"method": "hinge", "spectral_norm_d": True},
    "rpgan-r1-r2": {"method": "rpgan", "beta1": 0.0, "beta2": 0.99, "r1_weight": 1.0, "r2_weight": 1.0},
}
MODES = {
    name: {"model": "mlp", "batch_size": 256, "train_g_interval": 5, "lr": 3e-4, "beta1": 0.5, "beta2": 0.999}
    | row
    for name, row in MODES.items()
}
RING8 = {"z_dim": 32, "n_steps": 25_000, "sample_interval": 1000}
MNIST_MODES = {"z_dim": 100, "img_size": 28, "n_steps": 50_000, "sample_interval": 1000}
OF_RING8: dict[str, dict[str, Any]] = {"wgan-gp": {"gp_weight": 0.1}}
OF_MNIST: dict[str, dict[str, Any]] = {"lsgan": {"norm_g": "batch", "norm_d": "batch"}}

# 50 epochs of 100 updates. The authors' code has weight 1 for both kinds of codes, and 62 + 10 + 2 latents.
INFOGAN: dict[str, Any] = {
    "model": "infogan", "method": "gan", "img_size": 28, "z_dim": 74, "batch_size": 128, "n_steps": 5000,
    "lr_g": 1e-3, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999,
}  # fmt: skip
# 10,000 updates of G after five of D each; digits come without batch norm, with it the category is said to turn them.
INFOGAN_JOINT: dict[str, Any] = {
    "model": "infogan", "method": "gan", "r1_weight": 10.0, "img_size": 32, "z_dim": 112, "batch_size": 256,
    "n_steps": 50_000, "train_g_interval": 5, "lr": 3e-4, "beta1": 0.9, "beta2": 0.999,
    "norm_g": "none", "norm_d": "none",
    "g_kwargs": {"architecture": "conv", "prior": "normal"}, "d_kwargs": {"architecture": "conv", "joint": True},
}  # fmt: skip
