"""Full precision for the few quantities that half precision ruins."""

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """Lift float16 and bfloat16 to float32 and leave every other type, float64 included, as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
