"""The averaged copies of a run, how fast each of them follows, and when snapshots of some are kept."""

from collections.abc import Callable
from functools import partial

from torch import nn

from ema import EMA, decay_at, decay_from_halflife, exponent_of, power_decay
from generation.snapshots import power_name
from settings import TrainConfig
from settings.curves import Curve

USUAL_SNAPSHOTS = 32  # of a run

Averages = dict[str, tuple[EMA, Callable[[], float]]]


def make_averages(
    config: TrainConfig,
    network: nn.Module,
    clock: Callable[[], tuple[int, int, int]],
    images_before: Callable[[int], int],
) -> Averages:
    """Name -> (average, its decay now); those of --ema, then of --ema_power. The first one is what is sampled from.

    clock() gives the updates of the average so far, the step after the last one, and the step that runs;
    images_before(step) the images seen before a step. Averages of a run that starts from trained weights follow at
    their full length from the start, but for those of power functions, which are of the images of this run alone.
    """
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

    def by_power(width: float) -> float:
        _, last, step = clock()
        seen = images_before(step + 1)
        return power_decay(seen, seen - images_before(last), exponent_of(width))

    curve, rule = config.curve("ema_halflife"), by_images
    if curve is not None:
        values = [curve]
    elif config.ema_halflife:
        values = [Curve("constant", (halflife,)) for halflife in config.ema_halflife]
    else:
        values, rule = config.ema_decay, by_update
    names = ["ema"] if len(values) == 1 else [f"ema-{value}" for value in config.ema_halflife or values]
    rules = {n: partial(rule, value) for n, value in zip(names, values, strict=True)} if config.ema else {}
    rules |= {power_name(width): partial(by_power, width) for width in config.ema_power}
    return {name: (EMA(network), decay) for name, decay in rules.items()}


def snapshot_distance(config: TrainConfig, images_before: Callable[[int], int]) -> float:
    """Images between snapshots."""
    kimg = config.ema_snapshot_kimg
    return images_before(config.n_steps) / USUAL_SNAPSHOTS if kimg is None else 1000 * kimg


def snapshot_due(config: TrainConfig, images_before: Callable[[int], int]) -> Callable[[int], bool]:
    """Steps after which a snapshot is kept; one is at a run's end too."""
    every = snapshot_distance(config, images_before)
    return lambda step: step > 0 and images_before(step) // every > images_before(step - 1) // every


def n_snapshots(config: TrainConfig, images_before: Callable[[int], int]) -> int:
    """How many a whole run keeps, at most."""
    n = int(min(images_before(config.n_steps) // snapshot_distance(config, images_before), config.n_steps))
    return n + (not snapshot_due(config, images_before)(config.n_steps))
