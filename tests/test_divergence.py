"""Bad runs: what is one, how far it goes back, which checkpoints it leaves, and how it ends."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import gan_mnist
from errors import NotFinite, Unlearned, UserError
from games.noise_to_image import NoiseToImage
from generation.checkpoint import CheckpointStore
from generation.generator import load_generator
from generation.pictures import scatter
from images.batches import Batches, Shard
from metrics.mixture import MIXTURES
from tests.running import cheap, full, run, small, state
from training.guards import MAX_BAD_STEPS, MAX_LOSS, Diverged, Rollbacks, check_bad_runs, unlearned
from training.loop import Loop
from training.network import Network
from training.pictures import MAX_REGULAR, picture_due


def lines(folder: Path, name: str = "a") -> list[dict]:
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def command(words: str, folder: Path) -> int:
    """What the script's command line ends with."""
    with cheap():
        return gan_mnist.main(shlex.split(full(words, folder)))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Reals of the steps for which a function says so hold a NaN."""
    plain = Batches.micro

    def poisoned(bad: Callable[[int], bool]) -> None:
        def micro(self: Batches, start: int, j: int = 0, shard: Shard | None = None) -> tuple:
            x, y = plain(self, start, j, shard)
            return (x * float("nan") if bad(start // self.shard.batch_size) else x), y

        monkeypatch.setattr(Batches, "micro", micro)

    return poisoned


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of the checkpoints that are written, in their order."""
    steps, save = [], CheckpointStore.save

    def noted(self: CheckpointStore, content: dict, step: int, **how: object) -> Path | None:
        steps.append(step)
        return save(self, content, step, **how)

    monkeypatch.setattr(CheckpointStore, "save", noted)
    return steps


# -- what is a bad run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", ["--log_interval 1", "--sample_interval 10 --checkpoint_interval 5"])
def test_sgd_at_a_huge_rate_is_one_line_and_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: str
) -> None:
    words = f"--log_name a {small('mlp')} --lr 1e6 --optimizer SGD {beside} --n_steps 100"
    assert command(words, tmp_path) == 3
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: training diverged at step") and "--lr" in said[-1]
    assert not [line for line in said if not line.startswith(("error", "warning", "note"))]


def test_a_loss_that_is_not_finite_skips_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its gradients are finite."""
    plain = NoiseToImage.d_loss

    def infinite(self: NoiseToImage, batch: object) -> tuple:
        loss, stats = plain(self, batch)
        return (loss + float("inf") if batch.micro.step == 1 else loss), stats

    monkeypatch.setattr(NoiseToImage, "d_loss", infinite)
    run("--log_name a --n_steps 3 --log_interval 1 --accumulate 2", tmp_path)
    assert [line["skipped_steps"] for line in lines(tmp_path)] == [0, 1, 1]


@pytest.mark.parametrize("place", ["preview", "export", "for_sampling", "score"])
def test_what_is_not_finite_beside_training_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Pictures, the generator's export, its statistics, scores: those of step 4 are not finite at first."""
    playing: list[Loop] = []
    failed: list[str] = []

    def failing(plain: Callable) -> Callable:
        def called(*args: object, **how: object) -> object:
            if playing[0].step == 4 and not failed:
                failed.append(place)
                raise NotFinite("a picture is not finite")
            return plain(*args, **how)

        return called

    class Scorer:
        better = "low"

        def score(self, G: nn.Module, *, step: int, weights: str) -> dict:
            return {"step": step, "x": 1.0, "protocol": {"best_by": ["x", "low"]}}

    owner = Scorer if place == "score" else NoiseToImage
    monkeypatch.setattr(owner, place, failing(getattr(owner, place)))
    monkeypatch.setattr(NoiseToImage, "scorer", lambda task, interrupted: Scorer())
    guarded = Loop._run_guarded
    monkeypatch.setattr(Loop, "_run_guarded", lambda loop: (playing.append(loop), guarded(loop)))
    loop = run(
        "--log_name a --n_steps 6 --sample_interval 2 --checkpoint_interval 2 --eval_interval 2", tmp_path
    )
    assert (loop.step, loop.attempt, failed) == (6, 1, [place])
    assert "warning: a picture is not finite; back to step 2 with new noise" in capsys.readouterr().err


def test_generators_and_points_that_are_not_finite(tmp_path: Path) -> None:
    loop = run("--log_name a --n_steps 1", tmp_path)
    G = loop.task.networks["G"]
    next(b for name, b in G.named_parameters() if name.endswith("bias")).data.fill_(float("inf"))
    with cheap(), pytest.raises(NotFinite, match="a generator for sampling is not finite: "):
        loop.task.for_sampling(G)
    with pytest.raises(NotFinite, match="1 of 2 points"):
        scatter(MIXTURES["ring8"], None, torch.tensor([[0.0, float("nan")], [0.0, 0.0]]))


def networks(**of: tuple[int, int]) -> dict[str, Network]:
    """Name -> (steps skipped in a row, steps in all)."""
    made = {}
    for name, (bad, tried) in of.items():
        made[name] = Network(layer := nn.Linear(1, 1), torch.optim.SGD(layer.parameters()))
        made[name].bad_run, made[name].tried = torch.tensor(float(bad)), tried
    return made


@pytest.mark.parametrize(
    ("bad", "tried", "ended", "diverged"),
    [
        (MAX_BAD_STEPS, 99, False, True),
        (MAX_BAD_STEPS, 99, True, True),
        (MAX_BAD_STEPS - 1, 99, True, False),
        (3, 3, True, True),
        (3, 3, False, False),
        (0, 0, True, False),
    ],
)
def test_when_skipped_steps_are_divergence(bad: int, tried: int, ended: bool, diverged: bool) -> None:
    @contextmanager
    def expected() -> Iterator[None]:
        if not diverged:
            yield
            return
        with pytest.raises(Diverged, match=rf"the last {bad} step\(s\) of G skipped"):
            yield

    with expected():
        check_bad_runs(networks(D=(0, tried), G=(bad, tried)), ended)


# -- checkpoints and the way back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_a_score_that_is_due_while_steps_are_skipped_comes_late(
    tmp_path: Path,
    poison: Callable,
    written: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scaled: bool,
) -> None:
    """Due are 4 and 8, skipped 4 to 6 and 8. The end is scored, and all under a scaler; the best has its checkpoint."""
    poison(lambda step: step in (3, 4, 5, 7))
    taken: list[int] = []

    class Scorer:
        better = "low"

        def score(self, G: nn.Module, *, step: int, weights: str) -> dict:
            taken.append(step)
            return {"step": step, "x": 1.0, "protocol": {"best_by": ["x", "low"]}}

    monkeypatch.setattr(NoiseToImage, "scorer", lambda task, interrupted: Scorer())
    if scaled:
        monkeypatch.setattr(Loop, "scaled", True)
    run("--log_name a --n_steps 8 --eval_interval 4", tmp_path)
    assert taken == written == ([4, 8] if scaled else [7, 8])
    assert capsys.readouterr().out.count("note: no score at step 4: the last 1 step(s) of D skipped") == (
        not scaled
    )


def test_no_checkpoint_nor_score_while_steps_are_skipped(
    tmp_path: Path, poison: Callable, written: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 7 to 10 are; what was due at 8 comes at 11."""
    poison(lambda step: 6 <= step < 10)
    loop = run("--log_name a --n_steps 16 --checkpoint_interval 4", tmp_path)
    assert written == [4, 11, 12, 16] and loop.attempt == 0
    said = capsys.readouterr().out
    assert said.count("no checkpoint at step 8: the last 2 step(s) of D skipped") == 1
    assert "; 4 updates skipped; results in" in said


def test_tensorboard_forgets_what_a_rollback_does(
    tmp_path: Path, poison: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a resumed run: steps from 9 on, which its second try has yet to come to."""
    monkeypatch.setattr("training.guards.MAX_BAD_STEPS", 3)
    poison(lambda step: step >= 9)

    def begin(loop: Loop) -> None:
        if loop.attempt:
            raise UserError("no more")

    monkeypatch.setattr(Loop, "_begin", begin)
    run("--log_name a --n_steps 2 --checkpoint_interval 4 --log_interval 1 --loggers tensorboard", tmp_path)
    with pytest.raises(UserError, match="no more"):
        run("--log_name a --n_steps 20 --resume", tmp_path)
    shown = [e.step for e in EventAccumulator(str(tmp_path / "a")).Reload().Scalars("loss/d")]
    assert shown == [line["step"] for line in lines(tmp_path)] == [*range(1, 9)]


def test_each_rollback_in_a_row_goes_further_back(
    tmp_path: Path, poison: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.guards.MAX_BAD_STEPS", 3)
    poison(lambda step: step >= 13)
    with pytest.raises(Unlearned, match="again after 3 rollbacks.*of D skipped"):
        run("--log_name a --n_steps 40 --checkpoint_interval 4", tmp_path)
    said = capsys.readouterr().err
    assert [f"back to step {step}" in said for step in (12, 8, 4)] == [True] * 3
    assert "given up, the run went back: 12" in said
    assert CheckpointStore(tmp_path / "a" / "checkpoints").steps() == [4, 8, 12]  # of the last try
    G, about = load_generator(tmp_path / "a")
    assert about["step"] == 12 and all(torch.isfinite(p).all() for p in G.parameters())


def test_how_far_a_rollback_goes() -> None:
    back = Rollbacks()
    assert back.limit(step=30, newest=25) == 30
    back.note(at=30, to=25)
    assert back.limit(step=28, newest=25) == back.limit(step=45, newest=30) == 25  # none beyond where it was
    assert back.limit(step=45, newest=40) == 45  # it had got past it
    back.note(at=28, to=20)
    assert back.limit(step=28, newest=25) == 20 and back.n == 2


# -- how a run ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["1e6", "1e30"])
def test_a_run_that_learned_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: str
) -> None:
    assert command(f"--log_name a --lr {rate} --n_steps 12", tmp_path) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(
        ("warning: training ended without learning: loss/", "error: training diverged at step")
    )
    assert "--lr" in said
    if (tmp_path / "a" / "generator").exists():
        assert load_generator(tmp_path / "a")[1]["step"] > 0
        assert (
            command("--log_name a --resume", tmp_path) == 3
        )  # nothing is trained on, and nothing was learned


def test_all_steps_of_d_skipped(
    tmp_path: Path, poison: Callable, written: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    poison(lambda step: True)
    assert command("--log_name a --n_steps 5 --checkpoint_interval 1", tmp_path) == 3
    assert "before the first checkpoint: the last 5 step(s) of D skipped" in capsys.readouterr().err
    assert written == []


def test_a_run_that_ends_on_a_skipped_step_is_whole(
    tmp_path: Path, poison: Callable, written: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    poison(lambda step: step in (3, 5))
    loop = run("--log_name a --n_steps 6 --checkpoint_interval 2", tmp_path)
    assert (loop.step, loop.attempt, written) == (6, 0, [2, 5, 6]) and "loss/d nan" in loop.unlearned
    said = capsys.readouterr()
    assert "warning: the run ends on skipped steps: the last 1 step(s) of D skipped" in said.err
    assert "; 2 updates skipped; " in said.out


@pytest.mark.parametrize("network", ["d", "g"])
def test_a_run_whose_last_steps_were_skipped_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], network: str
) -> None:
    """For gradients that are not finite, though losses are; the last checkpoint is a good one."""
    plain = getattr(NoiseToImage, f"{network}_loss")

    def bent(self: NoiseToImage, batch: object) -> tuple:
        loss, stats = plain(self, batch)
        if batch.micro.step >= 4:
            loss.register_hook(lambda grad: grad * float("nan"))
        return loss, stats

    monkeypatch.setattr(NoiseToImage, f"{network}_loss", bent)
    assert command("--log_name a --n_steps 10 --checkpoint_interval 4 --train_g_interval 3", tmp_path) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"warning: training ended without learning: grad_norm/{network} nan"), said
    end = state(tmp_path, "a", 10)
    assert all(torch.isfinite(v).all() for v in end["networks"][network.upper()].values())
    assert command("--log_name a --resume", tmp_path) == 3


def test_bounds_of_losses() -> None:
    fine = {"loss/d": -0.9 * MAX_LOSS, "loss/g": 3.0, "d/real": 1e9, "penalty/gp": float("nan")}
    assert unlearned(fine) is None and unlearned({}) is None
    for bad in (float("nan"), float("-inf"), -2 * MAX_LOSS):
        assert "loss/d" in unlearned(fine | {"loss/d": bad})
    skipped = fine | {"grad_norm/d": float("inf")}
    assert "grad_norm/d" in unlearned(skipped) and unlearned(skipped, scaled=True) is None
    assert unlearned(fine | {"grad_norm/r1": float("inf")}) is None  # of long ago, perhaps


# -- logged values of lazy penalties -----------------------------------------------------------------------------------


def test_lines_after_a_resume_are_those_of_a_run_without_one(tmp_path: Path) -> None:
    words = "--r1_weight 1 --penalty_interval r1=4 --train_g_interval 3 --norm_d none"
    run(f"--log_name whole {words} --n_steps 9 --log_interval 1", tmp_path)
    run(f"--log_name a {words} --n_steps 5 --log_interval 1", tmp_path)
    run("--log_name a --resume --n_steps 9", tmp_path)

    def told(name: str) -> list[dict]:
        """Without the speed, and the numbers of the picture that a run makes where it ends."""
        found = lines(tmp_path, name)
        return [
            {k: v for k, v in line.items() if not k.startswith(("img_per_s", "samples/"))} for line in found
        ]

    assert told("a") == told("whole") and "penalty/r1" in told("a")[5]
    assert state(tmp_path, "a", 9)["loop"]["values"] == state(tmp_path, "whole", 9)["loop"]["values"]


def test_a_checkpoint_of_before_values_were_kept_resumes(tmp_path: Path) -> None:
    loop = run("--log_name a --n_steps 2", tmp_path)
    saved = loop.state_dict()
    del saved["loop"]["values"]
    loop.load_state_dict(saved)
    assert loop.stats == {}


# -- pictures and copies for sampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "n_steps", "count"),
    [
        (500, 781_250, 204),
        (500, 20_000, 46),
        (1, 100, 101),
        (3, 10, 4),
        (1000, 30, 2),
        (7, 10**6, 209),
        (500, 100_000, 206),
        (1, 200, 201),
        (1, 201, 101),
    ],
)
def test_pictures_thin_out(interval: int, n_steps: int, count: int) -> None:
    due = [step for step in range(n_steps + 1) if picture_due(step, interval, n_steps)]
    assert due[0] == 0 and len(due) == count
    if n_steps <= MAX_REGULAR * interval:
        assert {*range(0, n_steps + 1, interval)} <= {*due}
    early = [step for step in due if step % interval]
    assert early == [2**k for k in range(4, 4 + len(early))]


@pytest.mark.parametrize(("interval", "n_steps"), [(500, 781_250), (100, 2_000)])
def test_the_first_pictures_are_at_powers_of_two(interval: int, n_steps: int) -> None:
    due = [step for step in range(max(65, interval)) if picture_due(step, interval, n_steps)]
    assert due[:4] == [0, 16, 32, 64]


def test_pictures_of_a_run(tmp_path: Path) -> None:
    """From step 0 on, for new runs, and at the end."""

    def steps() -> list[int]:
        return sorted(int(p.name[5:13]) for p in (tmp_path / "a" / "samples").glob("step-*-raw.png"))

    run("--log_name a --n_steps 7 --sample_interval 3", tmp_path)
    assert steps() == [0, 3, 6, 7]
    for picture in (tmp_path / "a" / "samples").glob("step-*"):
        picture.unlink()
    run("--log_name a --resume --n_steps 10", tmp_path)
    assert steps() == [9, 10]


def test_a_copy_for_sampling_is_made_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For grid, export and scores together, of each weight set; what is given away is not the trained network."""
    import games.noise_to_image

    made, scored, copy = [], [], games.noise_to_image.sampling_copy

    def counted(G: nn.Module, *args: object) -> nn.Module:
        made.append(G)
        return copy(G, *args)

    class Scorer:
        better = "low"

        def score(self, G: nn.Module, *, step: int, weights: str) -> dict:
            scored.append(G)
            return {"step": step, "x": 1.0, "protocol": {"best_by": ["x", "low"]}}

    monkeypatch.setattr(games.noise_to_image, "sampling_copy", counted)
    monkeypatch.setattr(NoiseToImage, "scorer", lambda task, interrupted: Scorer())
    loop = run("--log_name a --n_steps 3 --sample_interval 3 --ema --eval_interval 3", tmp_path)
    assert len(made) == 1 + 2  # at 0, where the average is the network itself, and at 3
    assert loop._samplers is None and scored[0] is not loop.emas["ema"][0].module and not scored[0].training
    exported = load_generator(tmp_path / "a")[0].state_dict()
    assert all(torch.equal(v, exported[k]) for k, v in scored[0].state_dict().items())


# -- memory ------------------------------------------------------------------------------------------------------------


def no_memory() -> None:
    torch.empty(1 << 50)


def mps() -> None:
    raise RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, max allowed: 9.07 GB)")


def cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def python() -> None:
    raise MemoryError


@pytest.mark.parametrize("end", [no_memory, mps, cuda, python])
def test_memory_that_ends_in_training_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable
) -> None:
    step = Loop.run_step
    monkeypatch.setattr(Loop, "run_step", lambda loop: end() if loop.step == 3 else step(loop))
    with pytest.raises(UserError) as first:
        run("--log_name a --n_steps 4 --checkpoint_interval 2", tmp_path)
    assert str(first.value).startswith(
        "out of memory at step 3: go on with resume from step 2 and accumulate 2 "
    )
    assert "another batch_size needs a new run" in str(first.value)
    with pytest.raises(UserError, match="start anew with a smaller batch_size, accumulate 2 "):
        run("--log_name b --n_steps 4", tmp_path)


@pytest.mark.parametrize("end", [no_memory, cuda])
def test_memory_that_ends_before_training_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: Callable
) -> None:
    monkeypatch.setattr(NoiseToImage, "__init__", lambda task, *args: end())
    assert command("--log_name a --n_steps 4", tmp_path) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: out of memory before the first step: take a smaller --batch_size")


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(loop: Loop) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Loop, "run_step", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("--log_name a --n_steps 4", tmp_path)


def test_what_spares_memory_may_change_at_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--log_name a --n_steps 2", tmp_path)
    flags = "--accumulate 2 --data_device cpu --mixed_precision bf16"
    loop = run(f"--log_name a --resume --n_steps 3 {flags}", tmp_path)
    said = capsys.readouterr().err
    for change in ("accumulate: 1 -> 2", "data_device: auto -> cpu", "mixed_precision: no -> bf16"):
        assert f"note: changed at resume: {change}\n" in said
    assert loop.step == 3 and loop.accelerator.mixed_precision == "bf16" and loop.config.accumulate == 2
    with pytest.raises(UserError, match="batch_size: 8 -> 4"):
        run("--log_name a --resume --n_steps 4 --batch_size 4", tmp_path)
