"""Fakes of earlier steps, which D is shown again, so that it does not forget them. arXiv:1612.07828 section 2.3."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from games.task import Micro
from ops.distributed import all_rows
from ops.rng import generator


class Pool:
    """The last fakes of all processes, the same on each, in which half of those that D is shown are exchanged.

    images (size, C, H, W); n: how many places are filled. All choices are draws of the step, made on the CPU.
    """

    def __init__(self, size: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.images, self.n = torch.zeros(size, *shape, device=device), 0

    def exchanged(self, fakes: Tensor, micro: Micro, purpose: str) -> Tensor:
        """What D sees in place of fakes (n, C, H, W), detached.

        Each goes into the pool while it is not full; then about every other one takes the place of a picture there,
        which is shown.
        """
        size = len(self.images)
        if size == 0:
            return fakes.detach()
        shard, shown = micro.draws.shard, []
        draws = torch.rand(shard.batch_size, 2, generator=generator(*micro.draws.key, f"pool/{purpose}"))
        whole = shard.n * shard.n_processes  # of this micro-batch, over all processes
        mine = range(shard.process * shard.n, (shard.process + 1) * shard.n)
        for i, (fake, (swap, place)) in enumerate(
            zip(all_rows(fakes), draws[micro.j * whole :].tolist(), strict=False)
        ):
            picture = fake
            if self.n < size:
                self.images[self.n] = self.images[max(self.n - 1, 0)]
                self._put(self.n, fake)
                self.n += 1
            elif swap < 0.5:
                at = int(place * size)
                picture = self.images[at].clone()
                self._put(at, fake)
            if i in mine:
                shown.append(picture)
        return torch.stack(shown)

    def _put(self, at: int, fake: Tensor) -> None:
        """One that is not finite is left out for what stands there: its step is skipped, the pool would keep it."""
        self.images[at] = torch.where(torch.isfinite(fake).all(), fake, self.images[at])

    def state_dict(self) -> dict[str, Any]:
        """Pictures, and how many there are."""
        return {"images": self.images, "n": self.n}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave."""
        self.images.copy_(state["images"])
        self.n = state["n"]
