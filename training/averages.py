"""The averaged copies of a run and how fast each of them follows."""

from collections.abc import Callable

from torch import nn

from ema import EMA, decay_at, decay_from_halflife
from settings import TrainConfig
from settings.curves import Curve

Averages = dict[str, tuple[EMA, Callable[[], float]]]


def make_averages(
    config: TrainConfig,
    network: nn.Module,
    clock: Callable[[], tuple[int, int, int]],
    images_before: Callable[[int], int],
) -> Averages:
    """Name -> (average, its decay now); none without --ema. The first one is what is sampled from.

    clock() gives the updates of the average so far, the step after the last one, and the step that runs;
    images_before(step) the images seen before a step. Averages of a run that starts from trained weights follow at
    their full length from the start.
    """
    if not config.ema:
        return {}
    started = config.init_from is not None

    def by_update(decay: float) -> float:
        return decay if started else decay_at(clock()[0], decay=decay, warmup=config.ema_warmup)

    def by_images(halflives: Curve) -> float:
        updates, last, step = clock()
        if updates < config.ema_warmup and not started:
            return 0.0
        seen, rampup = images_before(last), None if started else config.ema_rampup
        images, halflife = images_before(step + 1) - seen, halflives(images_before(step))
        return decay_from_halflife(images, halflife if rampup is None else min(halflife, rampup * seen))

    curve, rule = config.curve("ema_halflife"), by_images
    if curve is not None:
        values = [curve]
    elif config.ema_halflife:
        values = [Curve("constant", (halflife,)) for halflife in config.ema_halflife]
    else:
        values, rule = config.ema_decay, by_update
    names = ["ema"] if len(values) == 1 else [f"ema-{value}" for value in config.ema_halflife or values]
    return {
        name: (EMA(network), lambda value=value: rule(value))
        for name, value in zip(names, values, strict=True)
    }
