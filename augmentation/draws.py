"""What every transform of a batch asks of its arguments, and the look-up of pixels they share."""

from torch import Tensor


def check_draws(x: Tensor, u: Tensor, n: Tensor, n_uniform: int, n_normal: int) -> None:
    """ValueError where x is no batch of images (N, C, H, W) or u, n are not (N, n_uniform), (N, n_normal)."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"images (N, C, H, W) of floats are needed, not {tuple(x.shape)} of {x.dtype}")
    given, wanted = (tuple(u.shape), tuple(n.shape)), ((len(x), n_uniform), (len(x), n_normal))
    if given != wanted:
        text = "images {} need draws u, n of shapes {} and {}, not {} and {}"
        raise ValueError(text.format(tuple(x.shape), *wanted, *given))


def take(x: Tensor, index: Tensor) -> Tensor:
    """Pixels of x (N, C, H, W) at index (N, H', W') of whole numbers, row W + column -> (N, C, H', W').

    Its gradient of any order is a gather or a scatter; grid_sample has no second one in older versions of torch.
    """
    wide = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)  # (N, C, H' W')
    return x.flatten(2).gather(2, wide).unflatten(2, index.shape[1:])
