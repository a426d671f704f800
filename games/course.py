"""Where a run stands at a step: what its schedules say, and learning rates with all that bends them.

games/schedule.py says which batch belongs to a step, and so how many images were seen before it.
"""

from games.growing import growth_of
from games.schedule import schedule_of, size_name
from settings import TrainConfig
from settings.scheduled import RATES

LOGGED_OTHERWISE = (*RATES, "ada_p")  # as lr/d, lr/g and augment/p


def side_of(is_judge: bool) -> str:
    """Of a network that learns with D, or with G."""
    return "d" if is_judge else "g"


def at_first(config: TrainConfig, setting: str, side: str) -> float:
    """What a side's lr, or beta2, begins at."""
    name, own = config.follows(setting, side), getattr(config, f"{setting}_{side}", None)
    if name is not None:
        return config.curve(name)(0)
    return getattr(config, setting) if own is None else own


class Course:
    """What moves along a run, as closed forms of the images seen before a step; nothing of it is state."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.schedule, self.growth = config, schedule_of(config), growth_of(config)
        self.curves = {name: config.curve(name) for name in config.schedule}

    def value(self, name: str, step: int) -> float:
        """Of what has a schedule."""
        return self.curves[name](self.schedule.images(step))

    def base_rate(self, side: str, plain: float) -> float:
        """What rate_factor is a factor of: `plain`, or 1 where the rate has a schedule."""
        return plain if self.config.follows("lr", side) is None else 1.0

    def rate_factor(self, side: str, step: int) -> float:
        """What a side's learning rates are multiplied by at this step, against base_rate."""
        name = self.config.follows("lr", side)
        return self._by_size(step) * self._falling(step) if name is None else self.value(name, step)

    def _by_size(self, step: int) -> float:
        """--lr_by_size: the rate of the size at which the networks stand, over --lr."""
        if self.growth is None or not self.config.lr_by_size:
            return 1.0
        size, _ = self.growth.stage(self.schedule.images(step))
        return self.config.lr_by_size.get(size_name(size), self.config.lr) / self.config.lr

    def _falling(self, step: int) -> float:
        """--lr_decay_from: 1, and from that step on along a line to 0 at the end."""
        start, n_steps = self.config.lr_decay_from, self.config.n_steps
        return 1.0 if start is None or step <= start else (n_steps - step) / (n_steps - start)

    def beta2(self, side: str, step: int) -> float | None:
        """Adam's for a side, None where it stands still."""
        name = self.config.follows("beta2", side)
        return None if name is None else self.value(name, step)

    def logged(self, step: int) -> dict[str, float]:
        """What has a schedule, by name, less what is logged under another one."""
        return {
            f"schedule/{name}": self.value(name, step) for name in self.curves if name not in LOGGED_OTHERWISE
        }

    def notes(self) -> list[str]:
        """A line for each schedule that is longer than the run."""
        n = self.schedule.images(self.config.n_steps)
        return [
            f"note: --schedule {name}={curve} goes on for {curve.images / 1000:,.10g} thousand images, and the run has "
            f"{n / 1000:,.10g}: it ends at {curve(n):.4g}"
            for name, curve in self.curves.items()
            if curve.images > n
        ]
