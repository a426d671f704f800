"""A run from its settings to its end, top to bottom: `run_plan`.

`train` comes to it from Python, a script by launch.script_main; both by run_planned. Between two steps
(loop.py: Loop._run_to_end): on_step, the check for steps that were not finite, a score where one is due,
pictures, log, progress, a signal that all processes agree on, checkpoint and generator/; and back to a checkpoint where
training diverged (guards.py, Loop._roll_back).
"""

import copy
import importlib.util
import json
import platform
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from errors import UserError, blaming_user
from games import game_of
from games.schedule import schedule_of
from games.task import Task
from generation.checkpoint import CheckpointStore, load_checkpoint
from generation.extractors import usual_extractor
from generation.generator import find_generator, load_generator, read_config
from generation.translator import Translator, load_translator
from images.batches import ImageData
from images.own import OWN, as_image_data
from images.sources import DATASETS
from modelling.layers import as_size
from ops.distributed import tensors_from_main
from settings import TrainConfig, as_dict, settled
from settings.derive import kept_batch, with_derived
from settings.files import settings_text
from settings.sections.run import LOGGERS
from signals import Signals, Stopped
from training.checking import size_limit
from training.claim import Outdated, RunFolder, claimed
from training.dry_run import Forecast, forecast, lines_of, rehearse, unclaimed
from training.events import TensorBoard
from training.folder import Plan, plan_of
from training.guards import memory_told
from training.logs import RunLog
from training.loop import Hook, Loop
from training.machine import accelerated, place_of, plugin_backend, shard_of
from training.optimizers import merged_biases
from training.pictures import Pictures, picture_due
from training.processes import peers
from training.scores import Scores
from training.start import start_of, take_over


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, and the loop with all of its networks and averages.

    forecast: of a dry run, which leaves no folder.
    """

    folder: Path
    loop: Loop = field(repr=False)
    forecast: Forecast | None = None

    @property
    def step(self) -> int:
        """Steps trained."""
        return self.loop.step

    @property
    def unlearned(self) -> str | None:
        """Why training ended without learning, as the last losses show it (guards.py); None where it ended well."""
        return self.loop.unlearned

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, as the last step left them."""
        return self.loop.task.networks

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl: step and logged values."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of one logged name, such as "loss/d"; null values are left out. ValueError with the names."""
        lines = self.metrics
        if not any(name in line for line in lines):
            known = sorted({key for line in lines for key in line} - {"step"})
            raise UserError(f"name {name}: logged are {', '.join(known)}")
        found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        return [step for step, _ in found], [value for _, value in found]

    def generator(self, weights: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
        """(G, about) for generation.sample: load_generator(run.folder, weights), of an own G too."""
        G = None
        # an own G: the weights go into a copy of it
        if read_config(find_generator(self.folder))["model"] is None:
            G = copy.deepcopy(self.networks["G"]).to("cpu", memory_format=torch.contiguous_format)
        return load_generator(self.folder, weights, G=G)

    def translator(self, weights: str | None = None) -> Translator:
        """What makes pictures of pictures: load_translator(run.folder, weights)."""
        return load_translator(self.folder, weights)


def train(
    config: TrainConfig,
    *,
    images: Any = None,
    labels: Any = None,
    G: nn.Module | None = None,
    D: nn.Module | None = None,
    resume: str | Path | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Run:
    """Train as the settings say, any number of times in a process, in any thread, one run at a time; what the command
    line does.

    images: own ones in place of the data set's, (N, C, H, W) uint8 or in [-1, 1], or a torch Dataset, with labels (N,)
    or (N, K) where the run is conditional; G, D: own networks, instances that keep to the contract of modelling.Model;
    resume: a run folder or checkpoint to go on from, with its own settings but for those given now, or "auto": the run
    of that log_name, begun where there is nothing to go on with; on_step(step, values): called after each step, values
    are tensors on the device. ValueError that names the argument for what does not fit; errors.Unlearned, which is one
    too, where training diverged again and again. A run that came to its end with losses beyond 1e6 is given back, and
    its `unlearned` says so (exit code 3 of a script).
    """
    data = None
    if images is not None:
        data = as_image_data(images, labels)
        config = fitted_to(config, data)
    elif labels is not None:
        raise UserError("labels: they belong to images, which were not given")
    own = {name: network for name, network in (("G", G), ("D", D)) if network is not None}
    plan: Plan | None = None

    def planned() -> Plan:
        nonlocal plan
        plan = others.from_main(lambda: plan_of(config, resume))
        return plan

    try:
        with (others := peers()).turns():
            return run_planned(planned, images=data, own=own, on_step=on_step)
    except Stopped as stop:
        if stop.code == 128 + signal.SIGINT:
            where = (plan and plan.folder) or "the run"
            raise KeyboardInterrupt(f"stopped; {where} can be resumed") from None
        raise


def fitted_to(config: TrainConfig, data: ImageData) -> TrainConfig:
    """The settings for own images; UserError for those that say otherwise."""
    of_images = DATASETS[config.dataset].kind == "images"
    of_files = ("data", "data_root", "split", "img_channels", "crop", "value_range")
    for name in (*of_files, *(() if of_images else ("dataset",))):
        if name in config.asked:
            raise UserError(f"{name}: images were given in place of a data set's: leave it out")
    if config.img_size is None:
        return replace(config, img_size=data.img_size)
    if as_size(config.img_size) != data.img_size:
        raise UserError(f"img_size {config.img_size}: the images have {data.img_size}; leave it out")
    return config


def run_planned(planned: Callable[[], Plan], **options: Any) -> Run:
    """run_plan of what planned() gives on all processes; asked again, once, where another run ended there meanwhile."""
    try:
        return run_plan(planned(), **options)
    except Outdated:
        pass  # out of here: what the first attempt holds goes
    return run_plan(planned(), **options)


@memory_told(
    lambda: (
        "before the first step: take a smaller --batch_size, --accumulate 2, --data_device cpu, or smaller networks"
    )
)
def run_plan(
    plan: Plan,
    *,
    images: ImageData | None = None,
    own: dict[str, nn.Module] | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Run:
    """The listing of a run: what is checked, read, built, restored, written and trained, in this order."""
    own = {} if own is None else own
    check_loggers(plan.config)
    with accelerated(plan.config) as accelerator:
        config = with_derived(plan.config, {"mixed_precision": accelerator.mixed_precision})
        name = OWN if images is not None else config.name_of_data
        config = with_reader(config, name)
        game = game_of(config)
        with blaming_user():
            game.refuse_unfit(config)
            game.rehearse(config, shard_of(config, accelerator), own, images)
            config = game.looked_at(config, images, fresh=plan.source is None)
        started = None if plan.source is not None else start_of(config, own)
        place = unclaimed(plan) if config.dry_run else claimed(plan, name)
        with place as folder:
            with blaming_user():
                data = game.load(config, accelerator.is_local_main_process, images)
                task = game(config, place_of(config, accelerator), data, own)
                loop = assemble(config, accelerator, task, folder, on_step)
            if plan.source is not None:
                restore(loop, plan.source)  # before config.json: a refused resume changes nothing
            elif started is not None:
                take_over(loop, started, own)
            if plan.source is None and (warning := kept_batch(config)) is not None:
                loop.log.say(warning)
            for note in loop.course.notes() if plan.source is None else ():
                loop.log.say(note)
            if config.dry_run:
                return rehearse_run(plan, loop)
            folder.begin(config)
            say_what_runs(config, accelerator, task, folder.path, plan.preset)
            loop.log.attempt("tracker", partial(start_trackers, config, accelerator, folder.path, loop.step))
            loop.log.attempt("samples/real.png", partial(Pictures(task, loop.log).reals, loop.step))
            loop.log.start(loop.step)
            try:
                loop.run()
            finally:
                loop.log.close(loop.step)
    return Run(folder.path, loop)


def rehearse_run(plan: Plan, loop: Loop) -> Run:
    """What --dry_run does in place of the run: measure, and say what was found."""
    say_what_runs(loop.config, loop.accelerator, loop.task, plan.folder, plan.preset)
    found = forecast(loop)
    for line in lines_of(found, loop, plan):
        loop.log.say(line)
    return Run(loop.log.folder, loop, found)


@memory_told(lambda: "for a few steps of it")
def seconds_for(config: TrainConfig, images: Any) -> float:
    """About how long the steps of a run take here on images like these, from a few of them; says and leaves nothing.

    images: own ones, as train takes them. ValueError.
    """
    data = as_image_data(images)
    config = settled(fitted_to(config, data))
    with accelerated(config) as accelerator, unclaimed(Plan(config)) as folder:
        with blaming_user():
            game = game_of(config)
            game.rehearse(config, shard_of(config, accelerator), {}, data)
            config = game.looked_at(config, data, fresh=True)
            task = game(config, place_of(config, accelerator), data, {})
        return rehearse(assemble(config, accelerator, task, folder)).seconds


def with_reader(config: TrainConfig, dataset: str) -> TrainConfig:
    """The config with the network that reads its samples, chosen once and written down: a resumed run has the same."""
    reads = config.eval_interval is not None and DATASETS[config.dataset].kind == "images"
    if not reads or config.extractor is not None:
        return config
    chosen = usual_extractor(dataset, config.metric_weights, config.cache_dir)
    return with_derived(config, {"extractor": chosen})


def assemble(
    config: TrainConfig,
    accelerator: Accelerator,
    task: Task,
    place: RunFolder,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Loop:
    """The loop at step 0, with what is written beside training; writes nothing."""
    folder = place.path
    store = CheckpointStore(folder / "checkpoints", config.keep_checkpoints, prepare=place.mend)
    log = RunLog(folder, accelerator, config.n_steps, schedule_of(config).images)
    due = partial(picture_due, interval=config.sample_interval, n_steps=config.n_steps)
    signals, scores = Signals(), None
    if config.eval_interval is not None:
        scorer = task.scorer(lambda: signals.received is not None)
        scores = Scores(scorer, log, interval=config.eval_interval, patience=config.eval_patience)
    return Loop(
        config,
        accelerator,
        task,
        shard_of(config, accelerator),
        store,
        log,
        signals=signals,
        surroundings=checkpoint_surroundings(config, accelerator, task),
        hooks=[Hook(due, "sample grid", Pictures(task, log).previews)],
        export=lambda step, samplers: task.export(folder / "generator", samplers, step),
        scores=scores,
        on_step=on_step,
    )


def check_loggers(config: TrainConfig) -> None:
    """Accelerate drops an absent tracker without a word: refuse it here."""
    for name in config.loggers:
        if importlib.util.find_spec(LOGGERS[name]) is None:
            raise UserError(
                f"--loggers {name}: not installed; pip install {LOGGERS[name]}, or --loggers tensorboard"
            )


def checkpoint_surroundings(config: TrainConfig, accelerator: Accelerator, task: Task) -> dict[str, Any]:
    """What a checkpoint says beside the loop's state."""
    return {
        "config": as_dict(config),
        "data": task.identity,
        "processes": accelerator.num_processes,
        "compiled": plugin_backend(accelerator),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }


def say_what_runs(
    config: TrainConfig, accelerator: Accelerator, task: Task, folder: Path | None, preset: str | None
) -> None:
    """Settings, networks, data and place, for people."""
    for line in (*settings_text(config, preset), *task.describe()):
        accelerator.print(line)
    by_size = "".join(f", {n} at {size} px" for size, n in config.batch_by_size.items())
    batch = f"{config.batch_size}{by_size}"
    accelerator.print(f"processes: {accelerator.num_processes}, global batch: {batch}")
    precision = accelerator.mixed_precision
    where = f"a new folder in {config.runs_dir}" if folder is None else folder
    accelerator.print(f"device: {accelerator.device}, mixed precision: {precision}, run: {where}")


def start_trackers(config: TrainConfig, accelerator: Accelerator, folder: Path, step: int) -> None:
    """TensorBoard, W&B, ... inside the run folder; points after a resumed step are dropped."""
    if not config.loggers:
        return
    ours = TensorBoard(folder, purge_step=step + 1 if step else None)
    accelerator.log_with = [ours if str(name) == "tensorboard" else name for name in accelerator.log_with]
    accelerator.init_trackers(folder.name, init_kwargs={"wandb": {"dir": str(folder)}})
    settings = as_dict(config)
    for tracker in accelerator.trackers:
        tracker.store_init_configuration(settings)


def checkpoint_of(
    source: Path, keep: int, check: Callable[[dict[str, Any]], object], limit: int
) -> dict[str, Any]:
    """The state to go on from: of a checkpoint, or of the newest of a run's that passes `check`; limit: bytes of its
    tensors. UserError."""
    store = CheckpointStore(source / "checkpoints", keep)
    if source.is_file():
        return load_checkpoint(source, check, limit)
    if (found := store.latest(check, limit)) is None:
        raise UserError(
            f"--resume: {source} has no checkpoint that this run can go on from; start anew with --overwrite"
        )
    return found[0]


def restore(loop: Loop, source: Path) -> None:
    """Load the checkpoint into the loop, refusing what does not fit it or its data before any weight is touched.

    The main process reads it for all: the others need not have the run's folder.
    """
    own = loop.state_dict()
    check, limit = loop.state_check(own), size_limit(own)
    state = tensors_from_main(lambda: checkpoint_of(source, loop.store.keep, check, limit))
    for line in loop.task.check_resumed(state["data"]):
        loop.log.say(line)
    if state["processes"] != loop.n_processes:
        loop.log.say(
            f"note: the checkpoint is of {state['processes']} process(es), now {loop.n_processes}: "
            "equal up to rounding, not bit for bit"
        )
    before, now = state.get("compiled", "no"), loop.surroundings["compiled"]
    if before != now:
        loop.log.say(f"note: --dynamo_backend was {before}, now {now}: equal up to rounding, not bit for bit")
    if any(merged_biases(state["optimizers"][name], n.optimizer) for name, n in loop.networks.items()):
        loop.log.say(
            "note: the run is from before StyleGAN2's mapping learned as published: its biases go on at sqrt(2) times "
            "their rate, its mean style with 0.995 for 0.998"
        )
    n_steps = loop.config.n_steps
    if state["step"] > n_steps:
        raise UserError(f"--resume: the checkpoint is at step {state['step']}, --n_steps is {n_steps}")
    loop.take_up(state)
    loop.log.say(f"resumed at step {loop.step} of {n_steps}")
