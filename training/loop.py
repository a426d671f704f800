"""The only training loop: phases, optimisers, reduction over processes, guards, cadence."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ema import EMA, decay_at, decay_from_halflife
from errors import UserError
from games.task import Draws, Micro, Phase, Task
from generation.checkpoint import CheckpointStore
from generation.state import non_finite
from images.batches import Shard
from modelling import running_statistics
from ops.rng import key
from ops.spectral_norm import has_spectral_norm, iterate_spectral_norm
from settings import TrainConfig
from signals import Signals, Stopped, name_of
from training.logs import RunLog
from training.optimizers import forget, make_optimizer, step_or_leave
from training.scores import Scores

MAX_BAD_STEPS = 20  # in a row, before the loop goes back to the last checkpoint
MAX_ROLLBACKS = 3
ASK_S = 2.0  # between looks for signals of other processes, each of which waits for the device


class Diverged(Exception):
    """Too many non-finite steps in a row, or weights that are not finite."""


WeightSets = dict[str, nn.Module]  # to sample from: averages first, then "raw"


@dataclass(frozen=True)
class Hook:
    """What happens beside training every `interval` steps and at its end: write(step, weight sets)."""

    interval: int
    what: str
    write: Callable[[int, WeightSets], None]


def seed_layer_noise(*parts: Any) -> None:
    """Re-seed torch's default generators (dropout, noise layers); microseconds, unlike torch.manual_seed."""
    number = key(*parts)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def overwrite(tensor: Tensor, value: Tensor) -> None:
    """Copy in place unseen by autograd: the graph of G that is kept for its own phase has saved the running
    statistics too, although its backward in training does not read them."""
    tensor.data.copy_(value)


class Network:
    """A network with what the loop needs of it, gathered once."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        # what a user has frozen stays so
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.statistics = running_statistics(module)
        self.spectral_norm = has_spectral_norm(module)
        self.bad_run = torch.zeros((), device=self.params[0].device)  # steps skipped in a row

    def train_only(self, yes: bool) -> None:
        """Freeze or free every parameter."""
        if self.params[0].requires_grad != yes:
            for p in self.params:
                p.requires_grad_(yes)


class Loop:
    """Runs a task's phases from one step to another; all of its state is in state_dict().

    export: what is written after each checkpoint; surroundings: what a checkpoint says beside the state; on_step:
    called after each step with its number and its logged values, which are still on the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        task: Task,
        shard: Shard,
        store: CheckpointStore,
        log: RunLog,
        *,
        signals: Signals,
        surroundings: dict[str, Any],
        hooks: Sequence[Hook] = (),
        export: Callable[[int, WeightSets], None] = lambda step, weight_sets: None,
        scores: Scores | None = None,
        on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
    ) -> None:
        self.config, self.accelerator, self.task, self.shard = config, accelerator, task, shard
        self.store, self.log, self.surroundings = store, log, surroundings
        self.signals, self.hooks, self.export, self.scores = signals, hooks, export, scores
        self.on_step = on_step
        self.device, self.is_main = accelerator.device, accelerator.is_main_process
        self.n_processes = shard.n_processes
        self.step = self.attempt = self.rollbacks = 0
        self._asked, self._ask_at = (time.monotonic(), 0), 0
        self.updates, self.last_update = 0, 0  # of the averaged network; the step after its last update
        self.skipped = torch.zeros((), device=self.device)
        self.stats: dict[str, Tensor] = {}
        self.networks = {name: self._network(name) for name in task.networks}
        self.all_statistics = [b for n in self.networks.values() for b in n.statistics]
        self.averaged = task.average_of()
        self.emas = self._make_emas()

    def _network(self, name: str) -> Network:
        lazy = sum(1 / p.interval for p in self.task.phases if name in p.trains and p.interval > 1)
        module, rate = self.task.networks[name], self.task.rates[name]
        return Network(module, make_optimizer(self.config, module, rate, self.device, 1 / (1 + lazy)))

    def _make_emas(self) -> dict[str, tuple[EMA, Callable[[], float]]]:
        """Name -> (average, its decay now). The first one is what is sampled from."""
        if not self.config.ema:
            return {}
        config = self.config
        if config.ema_halflife:
            values, decays = config.ema_halflife, [self._halflife_decay(h) for h in config.ema_halflife]
        else:
            values = config.ema_decay
            decays = [lambda d=d: decay_at(self.updates, decay=d, warmup=config.ema_warmup) for d in values]
        names = ["ema"] if len(values) == 1 else [f"ema-{value}" for value in values]
        return {name: (EMA(self.averaged), decay) for name, decay in zip(names, decays, strict=True)}

    def _halflife_decay(self, halflife: float) -> Callable[[], float]:
        def decay() -> float:
            if self.updates < self.config.ema_warmup:
                return 0.0
            images = (self.step + 1 - self.last_update) * self.config.batch_size
            rampup, seen = self.config.ema_rampup, self.last_update * self.config.batch_size
            return decay_from_halflife(images, halflife if rampup is None else min(halflife, rampup * seen))

        return decay

    # -- a step ------------------------------------------------------------------------------------------------

    def run_step(self) -> None:
        """All due phases of one step; listed in games/task.py."""
        step, config = self.step, self.config
        for network in self.networks.values():
            if network.spectral_norm:
                iterate_spectral_norm(network.module)
        self._at_step(step)
        if self.task.new_stage(step):
            for network in self.networks.values():
                forget(network.optimizer)
        self._set_rates(step)
        draws = Draws(self.shard, self.device, config.seed, self.attempt, step)
        inputs = [self.task.inputs(Micro(draws, step, j)) for j in range(config.accumulate)]
        self.task.announce(step + 1)
        due = [phase for phase in self.task.phases if phase.due(step)]
        last = next((phase for phase in reversed(due) if self._averages(phase)), None)
        for phase in due:
            ok = self._run_phase(phase, inputs, step)
            if phase is last:  # once a step, however many phases train the network
                self._average(ok)
        self.task.end_step(step)
        self.step += 1

    def _at_step(self, step: int) -> None:
        """Bring networks and averages to where the step wants them."""
        for module in [n.module for n in self.networks.values()] + [e.module for e, _ in self.emas.values()]:
            self.task.at_step(step, module)

    def _averages(self, phase: Phase) -> bool:
        """Whether the phase is a main one of a network that an average is kept of.

        What a lazy phase adds after it enters the average with the next step.
        """
        return phase.interval == 1 and any(name in phase.trains for name in self.task.averaged)

    def _set_rates(self, step: int) -> None:
        start = self.config.lr_decay_from
        factor = 1.0
        if start is not None and step > start:
            factor = (self.config.n_steps - step) / (self.config.n_steps - start)
        for network in self.networks.values():
            for group, rate in zip(network.optimizer.param_groups, network.base_rates, strict=True):
                group["lr"] = rate * factor

    def _run_phase(self, phase: Phase, inputs: list[Any], step: int) -> Tensor:
        """One backward and one step of the phase's networks; whether it was taken, as a device flag."""
        for name, network in self.networks.items():
            network.train_only(name in phase.trains)
        active = [self.networks[name] for name in phase.trains]
        params = [p for network in active for p in network.params]
        before = [t.clone() for t in (*self.all_statistics, *self.task.running)]
        seed_layer_noise(self.config.seed, self.attempt, step, phase.name, self.shard.process)
        # accelerator.backward would also divide by the launcher's accumulation
        scaler = self.accelerator.scaler
        for j, given in enumerate(inputs):
            loss, stats = phase.loss(given)
            loss = loss * (phase.interval / len(inputs))
            (loss if scaler is None else scaler.scale(loss)).backward(inputs=params)
            for name, value in stats.items():
                self.stats[name] = value / len(inputs) + (self.stats[name] if j else 0)
        grads = [p.grad for p in params if p.grad is not None]
        self._reduce(grads + self.all_statistics)
        norm, ok = self._apply(active, grads)
        self._keep_finite(before, ok)
        for network in active:
            network.optimizer.zero_grad(set_to_none=True)
        self.stats[f"grad_norm/{phase.name}"] = norm
        for name in self.task.clip.keys() & set(phase.trains):
            bound, clipped = self.task.clip[name], self.networks[name].params
            with torch.no_grad():
                torch._foreach_clamp_min_(clipped, -bound)
                torch._foreach_clamp_max_(clipped, bound)
        return ok

    def _reduce(self, tensors: list[Tensor]) -> None:
        """Mean over processes, in place, as one flat tensor."""
        if self.n_processes == 1 or not tensors:
            return
        with torch.no_grad():
            flat = self.accelerator.reduce(torch.cat([t.reshape(-1) for t in tensors]), "mean")
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                overwrite(tensor, part.view_as(tensor))

    def _apply(self, active: list[Network], grads: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Step the optimisers, or none where a gradient is not finite: (norm of all, 1 or 0 as a device flag)."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            if len(active) > 1:  # the scaler judges each optimiser alone: what one meets must stop all
                torch._foreach_add_(grads, 0 * torch.nn.utils.get_total_norm(grads))
            for network in active:
                scaler.unscale_(network.optimizer)
        norm = torch.nn.utils.get_total_norm(grads)
        ok = torch.isfinite(norm)
        bad = (~ok).to(self.skipped.dtype)
        for network in active:
            self._step(network, ok)
            network.bad_run = (network.bad_run + bad) * bad
        if scaler is not None:
            scaler.update()
        self.skipped += bad
        return norm, ok

    def _step(self, network: Network, ok: Tensor) -> None:
        """Step one optimiser where the flag is 1, in the way that waits least for the device."""
        optimizer, scaler = network.optimizer, self.accelerator.scaler
        if scaler is not None:
            scaler.step(optimizer)
        elif self.device.type == "cpu":
            if ok:
                optimizer.step()
        elif optimizer.defaults.get("fused"):
            # the fused kernel leaves everything untouched: no wait for the device
            optimizer.found_inf = (~ok).float()
            optimizer.step()
        else:
            step_or_leave(optimizer, network.params, ok)

    @torch.no_grad()
    def _keep_finite(self, before: list[Tensor], ok: Tensor) -> None:
        """Running statistics and means move in the forward: take them back where the step is skipped."""
        moved = (*self.all_statistics, *self.task.running)
        if self.device.type == "cpu":
            if not ok:
                for tensor, old in zip(moved, before, strict=True):
                    overwrite(tensor, old)
            return
        for tensor, old in zip(moved, before, strict=True):
            overwrite(tensor, torch.where(ok, tensor, old))

    def _average(self, ok: Tensor) -> None:
        flag = None if self.device.type == "cpu" else ok
        if flag is not None or ok:
            for ema, decay in self.emas.values():
                ema.update(self.averaged, decay(), flag)
        self.updates += 1  # skipped ones too: a count that no device has to be asked for
        self.last_update = self.step + 1

    # -- the run -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to n_steps; Stopped after a signal, UserError when training cannot go on."""
        try:
            with self.signals.noted():
                self._run_guarded()
        finally:
            for network in self.networks.values():
                network.train_only(True)

    def _run_guarded(self) -> None:
        try:
            missing = self.scores is not None and self.scores.missing(self.step, self.config.n_steps)
            if missing:
                self._evaluate(self.step)
                self._stop_if_asked(self._agreed_signal(True))
            # the late score is never taken again; resumed at its end: write what a sampler needs anew
            if missing or self.step == self.config.n_steps:
                self.save()
            while self.step < self.config.n_steps and not self._exhausted():
                try:
                    self._run_to_end()
                except Diverged as reason:
                    self._roll_back(str(reason))
            if self._exhausted():
                self.log.say(self.scores.reason())
        except torch.OutOfMemoryError:
            raise UserError(
                f"out of memory at step {self.step}: use a smaller --batch_size, or --accumulate 2 (same results "
                f"for networks without batch statistics); {self._last_good()}"
            ) from None
        except RuntimeError as error:
            if self.n_processes > 1 and self.signals.received:  # another process obeyed before it trained
                self._stop_if_asked(self.signals.received)
            if "CUDA error" not in str(error) and "device-side" not in str(error):
                raise
            first = str(error).splitlines()[0]
            raise UserError(f"lost the GPU at step {self.step} ({first}); {self._last_good()}") from None

    def _last_good(self) -> str:
        steps = self.store.steps()
        return f"go on with --resume from step {steps[-1]}" if steps else "no checkpoint had been written yet"

    def _run_to_end(self) -> None:
        config = self.config
        while self.step < config.n_steps and not self._exhausted():
            self.run_step()
            step = self.step
            if self.on_step is not None:
                self.on_step(step, dict(self.stats))
            scoring = self.scores is not None and self.scores.due(step, config.n_steps)
            best = scoring and self._evaluate(step)
            last = step == config.n_steps or self._exhausted()
            logging = step % config.log_interval == 0 or last
            if logging or self.device.type == "cpu":  # elsewhere reading the count waits for the device
                self._check_bad_runs()
            if logging:
                self._log()
            self.log.tick(step)
            for hook in self.hooks:
                if step % hook.interval == 0 or last:
                    self.log.attempt(hook.what, partial(hook.write, step, self.weight_sets()))
            number = self._agreed_signal(logging or scoring)
            if step % config.checkpoint_interval == 0 or last or number or best:
                saved = self.save()
                if last and not saved and not number:
                    raise UserError(f"the last checkpoint could not be written; {self._last_good()}")
            if not last:
                self._stop_if_asked(number)

    def _stop_if_asked(self, number: int) -> None:
        """Stopped if the processes agreed on a signal."""
        if number:
            self.log.say(f"stopped by {name_of(number)} at step {self.step}; {self._last_good()}")
            raise Stopped(number)

    def weight_sets(self) -> WeightSets:
        """What can be sampled from: averages first, then the raw network, or networks by name."""
        return {name: ema.module for name, (ema, _) in self.emas.items()} | {"raw": self.averaged}

    def _evaluate(self, step: int) -> bool:
        """Score the first weight set; whether it is the best so far."""
        name, network = next(iter(self.weight_sets().items()))
        return self.scores.evaluate(step, name, network)

    def _exhausted(self) -> bool:
        """Whether training ends here for want of better scores."""
        return self.scores is not None and self.scores.exhausted()

    def _agreed_signal(self, logging: bool) -> int:
        """The signal all processes obey at this step, 0 for none; several ask each other every ASK_S and at logging."""
        if self.n_processes == 1:
            return self.signals.received or 0
        if not logging and self.step < self._ask_at:
            return 0
        now, (then, at) = time.monotonic(), self._asked
        pace = (now - then) / max(self.step - at, 1)  # seconds a step; the slowest's is everyone's
        given = torch.tensor([[self.signals.received or 0, pace]], device=self.device)
        number, pace = self.accelerator.gather(given).amax(0).tolist()
        self._asked, self._ask_at = (now, self.step), self.step + max(int(ASK_S / max(pace, 1e-6)), 1)
        return int(number)

    def _check_bad_runs(self) -> None:
        for name, network in self.networks.items():
            if network.bad_run >= MAX_BAD_STEPS:
                raise Diverged(f"{int(network.bad_run)} non-finite gradients of {name} in a row")

    def _log(self) -> None:
        """Read this step's values from the device, averaged over processes."""
        self.stats |= self.task.stats(self.step - 1)
        names = sorted(self.stats)
        values = torch.stack(
            [
                self.stats[name].detach().to(torch.float64 if self.device.type != "mps" else torch.float32)
                for name in names
            ]
        )
        if self.n_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        scalars = dict(zip(names, values.tolist(), strict=True))
        scalars["skipped_steps"] = float(self.skipped)
        for name, network in self.networks.items():
            scalars[f"lr/{name.lower()}"] = network.optimizer.param_groups[0]["lr"]
        if self.accelerator.scaler is not None:
            scalars["fp16_scale"] = self.accelerator.scaler.get_scale()
        self.log.scalars(scalars, self.step)

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-equal continuation needs, in plain containers."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "attempt": self.attempt,
            "networks": {name: n.module.state_dict() for name, n in self.networks.items()},
            "ema": {name: ema.module.state_dict() for name, (ema, _) in self.emas.items()},
            "optimizers": {name: n.optimizer.state_dict() for name, n in self.networks.items()},
            "scaler": None if scaler is None else scaler.state_dict(),
            "task": self.task.state_dict(),
            "loop": {
                "updates": self.updates,
                "last_update": self.last_update,
                "skipped": float(self.skipped),
                "scores": [] if self.scores is None else self.scores.state_dict(),
            },
            **self.surroundings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore state_dict(); shapes have been compared before."""
        for name, network in self.networks.items():
            network.module.load_state_dict(state["networks"][name])
            network.optimizer.load_state_dict(state["optimizers"][name])
            network.bad_run.zero_()
        for name, (ema, _) in self.emas.items():
            ema.module.load_state_dict(state["ema"][name])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.task.load_state_dict(state["task"])
        self.step, self.attempt = state["step"], state["attempt"]
        self.updates, self.last_update = state["loop"]["updates"], state["loop"]["last_update"]
        self.skipped.fill_(state["loop"]["skipped"])
        if self.scores is not None:
            self.scores.load_state_dict(state["loop"].get("scores", []))

    def save(self) -> bool:
        """Write a checkpoint and the generator; False when it could not be written and the run goes on."""
        state = self.state_dict()
        if bad := non_finite(state):  # on every process, so that all roll back
            raise Diverged(f"non-finite weights ({bad[0]})")
        saved = True
        if self.is_main:
            saved = self.store.save(state, self.step, protect=self.log.best_steps()) is not None
            if saved:
                self.log.attempt("generator/", partial(self.export, self.step, self.weight_sets()))
        if self.n_processes > 1:
            flag = torch.tensor(float(saved), device=self.device)
            saved = bool(self.accelerator.reduce(flag, "sum") == self.n_processes)
        return saved

    def _roll_back(self, reason: str) -> None:
        self.rollbacks += 1
        found = self.store.latest(quiet=not self.is_main)
        if found is None or self.rollbacks > MAX_ROLLBACKS:
            last = {k: f"{float(v):.3g}" for k, v in self.stats.items() if k.startswith("loss/")}
            where = (
                "before the first checkpoint" if found is None else f"again after {MAX_ROLLBACKS} rollbacks"
            )
            raise UserError(
                f"training diverged at step {self.step} {where}: {reason}; losses {last}, lr {self.task.rates}; "
                "try a lower --lr, another --method, or --mixed_precision no"
            )
        attempt = self.attempt + 1
        self.load_state_dict(found[0])
        self.attempt = attempt  # new noise from here on
        self.log.cut(self.step)
        self.log.say(
            f"warning: {reason}; back to step {self.step} with new noise ({self.rollbacks} of {MAX_ROLLBACKS})"
        )
