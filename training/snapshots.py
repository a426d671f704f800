"""Keeps snapshots of a run's power-function averages beside training."""

from generation.snapshots import power_name, write_snapshot
from generation.state import check_finite
from training.averages import snapshot_due
from training.loop import Hook, Loop
from training.network import WeightSets


def snapshot_hooks(loop: Loop) -> list[Hook]:
    """What keeps them beside training; nothing without power-function averages."""
    config, images_before = loop.config, loop.schedule.images

    def write(step: int, weight_sets: WeightSets) -> None:
        if not loop.is_main or not loop.updates:
            return
        averages = {width: loop.emas[power_name(width)][0].module for width in config.ema_power}
        for average in averages.values():
            check_finite(average)
        write_snapshot(loop.log.folder, step, images_before(loop.last_update), averages)

    due = snapshot_due(config, images_before)
    return [Hook(due, "snapshot of averages", write)] if config.ema_power else []
