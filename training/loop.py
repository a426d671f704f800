"""The only training loop: phases, optimisers, reduction over processes, guards, cadence."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from errors import UserError
from games.course import Course, side_of
from games.task import Draws, Micro, Phase, Task, is_logged
from generation.checkpoint import CheckpointStore
from generation.state import non_finite
from images.batches import Shard
from ops.distributed import agree, from_main, tensors_from_main
from ops.spectral_norm import iterate_spectral_norm
from settings import TrainConfig
from signals import Signals, Stopped, name_of
from training.averages import make_averages
from training.checking import check_state
from training.guards import (
    MAX_ROLLBACKS,
    Diverged,
    Rollbacks,
    check_bad_runs,
    diverging,
    given_up,
    memory_advice,
    memory_told,
    skipped_lately,
    unlearned,
)
from training.layers import is_measured, layer_gradients
from training.logs import RunLog
from training.lookahead import Lookahead
from training.network import Network, Samplers, WeightSets, overwrite, seed_layer_noise
from training.optimizers import as_stored, forget, load_moments, make_optimizer, step_where
from training.outlook import REST, Outlook
from training.scores import Scores

ASK_S = 2.0  # between looks for signals of other processes, each of which waits for the device


@dataclass(frozen=True)
class Hook:
    """What happens beside training at steps that are due(step), 0 among them or not, and at its end: write(step, weight
    sets as they are sampled from)."""

    due: Callable[[int], bool]
    what: str
    write: Callable[[int, WeightSets], None]


class Loop:
    """Runs a task's phases from one step to another; all of its state is in state_dict().

    export: what is written after each checkpoint; surroundings: what a checkpoint says beside the state; on_step:
    called after each step with its number and its logged values, which are still on the device. unlearned: why
    training ended without learning, if so.
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
        self.signals, self.hooks, self.export, self.scores = signals, list(hooks), export, scores
        self.on_step = on_step
        self.device, self.is_main = accelerator.device, accelerator.is_main_process
        self.n_processes = shard.n_processes
        self.step = self.attempt = 0
        self.rollbacks = Rollbacks()
        self.owed = self.score_owed = False  # a checkpoint, a score, that was due while steps were skipped
        self.unlearned: str | None = None
        self._samplers: Samplers | None = None
        self._asked = (time.monotonic(), 0)  # (when, step) signals were asked for
        self._ask_at = 0  # the next step for it
        self.updates, self.last_update = 0, 0  # of the averaged network; the step after its last update
        self.skipped = torch.zeros((), device=self.device)
        self.stats: dict[str, Tensor] = {}
        self.layer_stats: dict[str, Tensor] = {}  # of this step
        self.course = Course(config)
        self.networks = {name: self._network(name) for name in task.networks}
        # of several phases that train a network the first
        main = [phase for phase in task.phases if phase.interval == 1]
        self.main_phase = {name: next((p for p in main if name in p.trains), None) for name in self.networks}
        self.all_statistics = [b for n in self.networks.values() for b in n.statistics]
        self.lookahead = Lookahead(config.lookahead, self.networks)
        self.averaged = task.average_of()
        self.schedule = self.course.schedule
        self.emas = make_averages(config, self.averaged, self._clock, self.schedule.images)
        self.outlook = Outlook(config, task, log, self.device, self.weights)

    def _clock(self) -> tuple[int, int, int]:
        return self.updates, self.last_update, self.step

    def _network(self, name: str) -> Network:
        lazy = 1 / (1 + sum(1 / p.interval for p in self.task.phases if name in p.trains and p.interval > 1))
        module, side = self.task.networks[name], side_of(name in self.task.judges)
        rate = self.course.base_rate(side, self.task.rates[name])
        beta2 = self.task.beta2.get(name, self.config.beta2)
        return Network(module, make_optimizer(self.config, module, rate, beta2, self.device, lazy), lazy)

    # -- a step ------------------------------------------------------------------------------------------------

    def run_step(self) -> None:
        """All due phases of one step; listed in games/task.py."""
        step, config = self.step, self.config
        self.outlook.begin(step)
        self._samplers = None  # of the weights as they are now
        for network in self.networks.values():
            if network.spectral_norm:
                iterate_spectral_norm(network.module)
        self.task.begin_step(step)
        self._at_step(step)
        if self.task.new_stage(step):
            for network in self.networks.values():
                forget(network.optimizer)
        self._set_rates(step)
        shard, first = self.shard.of(self.schedule.batch_size(step)), self.schedule.images(step)
        draws = Draws(shard, self.device, config.seed, self.attempt, step, first=first)
        inputs = [self.task.inputs(Micro(draws, step, j)) for j in range(config.accumulate)]
        self.task.announce(step + 1)
        self.outlook.lap(REST)
        due = [phase for phase in self.task.phases if phase.due(step)]
        last = next((phase for phase in reversed(due) if self._averages(phase)), None)
        for phase in due:
            ok = self._run_phase(phase, inputs, step)
            if phase is last:  # once a step, however many phases train the network
                self._average(ok)
            self.outlook.lap(phase.name)
        self.lookahead.after(step + 1)
        self.task.end_step(step)
        self.outlook.lap(REST)
        self.step += 1

    def _at_step(self, step: int) -> None:
        """Bring networks and averages to where the step wants them."""
        for module in [n.module for n in self.networks.values()] + [e.module for e, _ in self.emas.values()]:
            self.task.at_step(step, module)

    @property
    def wide(self) -> torch.dtype:
        """The widest floats of the device, in which logged values are held."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled, under fp16: their scale is found by skipping steps, of well runs too."""
        return self.accelerator.scaler is not None

    def _averages(self, phase: Phase) -> bool:
        """Whether the phase is a main one of a network that an average is kept of.

        What a lazy phase adds after it enters the average with the next step.
        """
        return phase.interval == 1 and any(name in phase.trains for name in self.task.averaged)

    def _set_rates(self, step: int) -> None:
        for name, network in self.networks.items():
            side = side_of(name in self.task.judges)
            network.set_rates(self.course.rate_factor(side, step), self.course.beta2(side, step))

    def _rates(self) -> dict[str, float]:
        """Learning rates in use, by network."""
        return {name: network.optimizer.param_groups[0]["lr"] for name, network in self.networks.items()}

    def _run_phase(self, phase: Phase, inputs: list[Any], step: int) -> Tensor:
        """One backward and one step of the phase's networks; whether it was taken, as a device flag."""
        for name, network in self.networks.items():
            network.train_only(name in phase.trains)
        active = [self.networks[name] for name in phase.trains]
        params = [p for network in active for p in network.params]
        before = [t.clone() for t in (*self.all_statistics, *self.task.running)]
        seed_layer_noise(self.config.seed, self.attempt, step, phase.name, self.shard.process)
        # accelerator.backward would also divide by the launcher's accumulation
        scaler, seen = self.accelerator.scaler, None
        for j, given in enumerate(inputs):
            loss, stats = phase.loss(given)
            loss = loss * (phase.interval / len(inputs))
            (loss if scaler is None else scaler.scale(loss)).backward(inputs=params)
            seen = loss.detach() if seen is None else seen + loss.detach()
            for name, value in stats.items():
                self.stats[name] = value / len(inputs) + (self.stats[name] if j else 0)
        grads = [p.grad for p in params if p.grad is not None]
        self._reduce([*grads, *self.all_statistics, seen])
        self._unscale(active, grads, seen)
        self._measure_layers(phase, step)
        norm, ok = self._apply(active, grads, seen)
        self._keep_finite(before, ok)
        for network in active:
            network.optimizer.zero_grad(set_to_none=True)
        self.stats[f"grad_norm/{phase.name}"] = norm
        for name in self.task.clip.keys() & set(phase.trains):
            bound, clipped = self.task.clip[name], self.networks[name].params
            with torch.no_grad():
                torch._foreach_clamp_min_(clipped, -bound)
                torch._foreach_clamp_max_(clipped, bound)
        for layer in chain.from_iterable(network.normalised for network in active):
            layer.renormalise()
        return ok

    def _reduce(self, tensors: list[Tensor]) -> None:
        """Mean over processes, in place, as one flat tensor."""
        if self.n_processes == 1 or not tensors:
            return
        with torch.no_grad():
            flat = self.accelerator.reduce(torch.cat([t.reshape(-1) for t in tensors]), "mean")
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                overwrite(tensor, part.view_as(tensor))

    def _unscale(self, active: list[Network], grads: list[Tensor], loss: Tensor) -> None:
        """Under fp16: bring gradients back to the size that they have without its scale."""
        scaler = self.accelerator.scaler
        if scaler is None:
            return
        # the scaler judges each optimiser by its gradients alone: what one meets must stop all
        whole = torch.nn.utils.get_total_norm(grads) if len(active) > 1 else 0
        torch._foreach_add_(grads if len(active) > 1 else grads[:1], 0 * (loss + whole))
        for network in active:
            scaler.unscale_(network.optimizer)

    def _measure_layers(self, phase: Phase, step: int) -> None:
        """At the first update of a network by its main phase after every health_interval steps: its gradients."""
        names = [name for name in phase.trains if self.main_phase[name] is phase]
        if names and is_measured(phase.due, step, self.config.health_interval):
            for name in names:
                self.layer_stats |= layer_gradients(name.lower(), self.networks[name].layers)

    def _apply(self, active: list[Network], grads: list[Tensor], loss: Tensor) -> tuple[Tensor, Tensor]:
        """Step the optimisers, or none where a gradient or the loss is not finite: (norm of all gradients, 1 or 0 as a
        device flag)."""
        scaler = self.accelerator.scaler
        norm = torch.nn.utils.get_total_norm(list(map(as_stored, grads)))
        ok = torch.isfinite(norm + loss)
        bad = (~ok).to(self.skipped.dtype)
        for network in active:
            step_where(network.optimizer, network.params, ok, scaler)
            network.bad_run = (network.bad_run + bad) * bad
            network.tried += 1
        if scaler is not None:
            scaler.update()
        self.skipped += bad
        return norm, ok

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
        """Train to n_steps; Stopped after a signal, UserError when training cannot go on, Unlearned when it diverges
        again and again."""
        try:
            with self.signals.noted(), memory_told(self._memory_advice):
                self._run_guarded()
        except RuntimeError as error:
            if self.n_processes > 1 and self.signals.received:  # another process obeyed before it trained
                self._stop_if_asked(self.signals.received)
            if "CUDA error" not in str(error) and "device-side" not in str(error):
                raise
            first = str(error).splitlines()[0]
            raise UserError(f"lost the GPU at step {self.step} ({first}); {self._last_good()}") from None
        finally:
            self._samplers = None
            for network in self.networks.values():
                network.train_only(True)

    def _run_guarded(self) -> None:
        while True:
            try:
                self._begin()
                self._run_to_end()
                break
            except Diverged as reason:
                self._roll_back(str(reason))
        if self._exhausted():
            self.log.say(self.scores.reason())
        self.unlearned = unlearned(self._values(), scaled=self.scaled)
        if self.unlearned is not None:
            self.log.say(f"warning: {self.unlearned}")

    def _begin(self) -> None:
        """What a run does before its first step, or before it goes on."""
        if self.step == 0:
            self.lookahead.begin()  # of weights that another run has trained, if so
            for hook in self.hooks:
                if hook.due(0):
                    self.write_beside(hook)
        missing = self.scores is not None and self.scores.missing(self.step, self.config.n_steps)
        if missing:
            self._evaluate(self.step)
        # the late score is never taken again; resumed at its end: write what a sampler needs anew
        if missing or self.step == self.config.n_steps:
            self.save()
        if missing:
            self._stop_if_asked(self._agreed_signal(True))

    def _last_good(self) -> str:
        steps = self.store.steps()
        return f"go on with --resume from step {steps[-1]}" if steps else "no checkpoint had been written yet"

    def _memory_advice(self) -> str:
        return memory_advice(
            self.config, self.n_processes, self.step, self._last_good(), bool(self.store.steps())
        )

    def _run_to_end(self) -> None:
        config = self.config
        while self.step < config.n_steps and not self._exhausted():
            self.run_step()
            step = self.step
            if self.on_step is not None:
                self.on_step(step, dict(self.stats))
            ended = step == config.n_steps
            scoring = self.scores is not None and (self.score_owed or self.scores.due(step, config.n_steps))
            logging = is_logged(config, step - 1)
            if logging or self.device.type == "cpu":  # elsewhere reading the count waits for the device
                check_bad_runs(self.networks, ended)
            best = scoring and self._score_or_owe(ended)
            last = ended or self._exhausted()
            for hook in self.hooks:
                if hook.due(step) or last:
                    self.write_beside(hook)
            self._log(whole=logging or last)
            self.log.tick(step)
            self.outlook.after(step)
            number = self._agreed_signal(logging or scoring or last)
            if step % config.checkpoint_interval == 0 or last or number or best or self.owed:
                saved = self._save_or_owe(last, bool(number or best))
                if last and not saved and not number:
                    raise UserError(f"the last checkpoint could not be written; {self._last_good()}")
            if not last:
                self._stop_if_asked(number)

    def write_beside(self, hook: Hook) -> None:
        """Run a hook; all processes wait for the one that writes, and learn of a failure."""
        with diverging(), self.log.doing(hook.what):
            agree(lambda: self.log.attempt(hook.what, partial(hook.write, self.step, self.samplers())))

    def _score_or_owe(self, ended: bool) -> bool:
        """Score the weights, or owe that to the next step at which no steps are being skipped; whether it is the best.

        At the end, and under fp16, they are scored all the same: as checkpoints are written.
        """
        skipping = skipped_lately(self.networks)
        late = skipping is not None and not (ended or self.scaled)
        if late and not self.score_owed:
            self.log.say(f"note: no score at step {self.step}: {skipping}")
        self.score_owed = late
        return not late and self._evaluate(self.step)

    def _save_or_owe(self, last: bool, wanted: bool) -> bool:
        """Write a checkpoint that is due, or owe it to the next step at which no network's steps are being skipped.

        The last one is written all the same, since no step follows, and under fp16, which finds its scale by skipping
        steps, one that is wanted of this very step: for a signal, or the best score.
        """
        skipping = skipped_lately(self.networks)
        if skipping is not None and not (last or (wanted and self.scaled)):
            if not self.owed:
                self.log.say(f"note: no checkpoint at step {self.step}: {skipping}")
            self.owed = True
            return False
        if skipping is not None and not self.scaled:
            self.log.say(f"warning: the run ends on skipped steps: {skipping}")
        self.owed = False
        return self.save()

    def _stop_if_asked(self, number: int) -> None:
        """Stopped if the processes agreed on a signal."""
        if number:
            self.log.say(f"stopped by {name_of(number)} at step {self.step}; {self._last_good()}")
            raise Stopped(number)

    def weight_sets(self) -> WeightSets:
        """What can be sampled from: averages first, then the raw network, or networks by name."""
        return {name: ema.module for name, (ema, _) in self.emas.items()} | {"raw": self.averaged}

    def samplers(self) -> WeightSets:
        """The weight sets as they are sampled from, until the next step."""
        if self._samplers is None:
            sets = self.weight_sets()
            # the averages are what they average
            if not self.updates and self.config.init_from is None:
                sets = dict.fromkeys(sets, self.averaged)
            self._samplers = Samplers(sets, self._for_sampling)
        return self._samplers

    def _for_sampling(self, name: str, network: nn.Module) -> nn.Module:
        with self.log.doing(f"preparing {name} weights for sampling"):
            return self.task.for_sampling(network)

    def _evaluate(self, step: int) -> bool:
        """Score the first weight set; whether it is the best so far."""
        with diverging(), self.log.doing("scores"):
            return self.scores.evaluate(step, next(iter(self.weight_sets())), self.samplers())

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

    def _values(self) -> dict[str, float]:
        """The last values of all that is logged at each time, averaged over processes; waits for the device."""
        return self._read(self.stats)

    def _read(self, stats: dict[str, Tensor]) -> dict[str, float]:
        names = sorted(stats)
        if not names:
            return {}
        values = torch.stack([stats[name].detach().to(self.wide) for name in names])
        if self.n_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(names, values.tolist(), strict=True))

    def _log(self, *, whole: bool) -> None:
        """Read this step's values from the device; whole: all of them, else what was measured of its layers alone."""
        layers, self.layer_stats = self.layer_stats, {}
        if not whole:
            self.log.beside(self._read(layers), self.step)
            return
        self.stats |= self.task.stats(self.step - 1)
        scalars = self._read(self.stats | layers)
        scalars["skipped_steps"] = float(self.skipped)
        self.log.skipped = int(self.skipped)
        scalars |= {f"lr/{name.lower()}": rate for name, rate in self._rates().items()}
        scalars |= self.course.logged(self.step - 1)
        if self.accelerator.scaler is not None:
            scalars["fp16_scale"] = self.accelerator.scaler.get_scale()
        self.log.scalars(scalars, self.step)

    # -- state -------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Any]:
        """Weights, averages and moments: what a checkpoint is large by."""
        return {
            "networks": {name: n.module.state_dict() for name, n in self.networks.items()},
            "ema": {name: ema.module.state_dict() for name, (ema, _) in self.emas.items()},
            "optimizers": {name: n.optimizer.state_dict() for name, n in self.networks.items()},
            "lookahead": self.lookahead.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-equal continuation needs, in plain containers."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "attempt": self.attempt,
            **self.weights(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "task": self.task.state_dict(),
            "loop": {
                "updates": self.updates,
                "last_update": self.last_update,
                "skipped": float(self.skipped),
                "values": self._values(),
                "scores": [] if self.scores is None else self.scores.state_dict(),
            },
            **self.surroundings,
        }

    def state_check(self, own: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """A function that raises UserError for a state which load_state_dict cannot go on from, and touches nothing.

        own: this run's state_dict(), which all processes take together; one of them can check then.
        """
        optimizers = {name: network.optimizer for name, network in self.networks.items()}
        return partial(check_state, expected=own, optimizers=optimizers, task=self.task)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that has passed state_check."""
        for name, network in self.networks.items():
            network.module.load_state_dict(state["networks"][name])
            load_moments(network.optimizer, state["optimizers"][name])
            network.bad_run, network.tried = torch.zeros_like(network.bad_run), 0
        self.lookahead.load_state_dict(state.get("lookahead", {}))
        for name, (ema, _) in self.emas.items():
            ema.module.load_state_dict(state["ema"][name])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.task.load_state_dict(state["task"])
        self.step, self.attempt = state["step"], state["attempt"]
        self.updates, self.last_update = state["loop"]["updates"], state["loop"]["last_update"]
        self.skipped.fill_(state["loop"]["skipped"])
        self.log.skipped = int(state["loop"]["skipped"])
        # what a lazy phase said last is logged until it runs again
        values = state["loop"].get("values", {})
        self.stats = {k: torch.tensor(v, dtype=self.wide, device=self.device) for k, v in values.items()}
        self.layer_stats = {}
        self.owed = self.score_owed = False
        self._samplers = None
        if self.scores is not None:
            self.scores.load_state_dict(state["loop"].get("scores", []))

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a state that has passed state_check: what was logged and saved after it is given up."""
        self.load_state_dict(state)
        # first: a run that is killed here goes on before what is cut, not after it
        if self.is_main:
            self.store.supersede(self.step)
        self.log.cut(self.step)

    def save(self) -> bool:
        """Write a checkpoint and the generator; False when it could not be written and the run goes on."""
        state = self.state_dict()
        if bad := non_finite(state):  # on every process, so that all roll back
            raise Diverged(f"weights are not finite ({bad[0]})")
        self.log.skipped = int(state["loop"]["skipped"])

        def write() -> bool:
            if self.store.save(state, self.step, protect=self.log.best_steps()) is None:
                return False
            self.log.attempt("generator/", partial(self.export, self.step, self.samplers()))
            return True

        with diverging(), self.log.doing("checkpoint"):
            return from_main(write)

    def _roll_back(self, reason: str) -> None:
        """Take a checkpoint of before, of longer before each time in a row, where there is one; Unlearned."""
        own = self.state_dict()  # of all processes, since what is logged is a mean over them
        check = self.state_check(own)

        def older() -> tuple[dict[str, Any], Any] | None:
            steps = self.store.steps()
            limit = self.rollbacks.limit(self.step, steps[-1] if steps else None)
            return self.store.latest(check, before=limit) or self.store.latest(check)

        found = tensors_from_main(older)
        if found is None or self.rollbacks.n == MAX_ROLLBACKS:
            where = f"again after {MAX_ROLLBACKS} rollbacks" if found else "before the first checkpoint"
            raise given_up(self.step, where, reason, own["loop"]["values"], self._rates())
        attempt, at = self.attempt + 1, self.step
        self.take_up(found[0])
        self.rollbacks.note(at, self.step)
        self.attempt = attempt  # new noise from here on
        n = self.rollbacks.n
        self.log.say(f"warning: {reason}; back to step {self.step} with new noise ({n} of {MAX_ROLLBACKS})")
