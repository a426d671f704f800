"""Stop signals in every stage of a command, and what must outlive them or die with them."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from PIL import Image

import signals
from settings import TrainConfig
from tests.running import ROOT, full
from training import train
from training.loop import Loop

STOPS = [getattr(signal, name) for name in signals.NAMES]
SCRIPTS = sorted(file.name for file in ROOT.glob("gan_*.py"))
TOOLS = [
    f"tools.{file.stem}" for file in sorted((ROOT / "tools").glob("*.py")) if "main(" in file.read_text()
]
# tools.table imports nothing that takes time
MODULES = [*(name for name in TOOLS if name != "tools.table"), "studies.mode_collapse"]
PATIENCE_S = 60.0

# A package that takes for ever to import, in place of the one that takes seconds; exceptions abort its native code.
SLOW_TORCH = """
import os, time
print("importing", flush=True)
try:
    time.sleep(600)
except BaseException:
    os.abort()
"""
# A command of a few lines; `work` says when it is ready.
COMMAND = """
import sys, time
import signals
signals.as_command()
ready = lambda: print("ready", flush=True)
{more}
try:
    {work}
finally:
    print("left in order", flush=True)
"""


def start(*words: str, path: Path = ROOT, **more: object) -> subprocess.Popen:
    """Python with these words as the first of a new session, both outputs readable; `path` before this project's."""
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = pipes | {"start_new_session": True, "env": environment, "cwd": ROOT} | more
    return subprocess.Popen([sys.executable, *words], **options)


def command(work: str, more: str = "", **options: object) -> subprocess.Popen:
    """A running command that does `work`, once it is ready."""
    process = start("-c", COMMAND.format(work=work, more=more), **options)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, what was not read yet of stdout, stderr."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def until(true: object) -> None:
    """Wait until true() is."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "too slow"
        time.sleep(0.02)


@contextmanager
def slow_imports(folder: Path, *words: str, **options: object) -> Iterator[subprocess.Popen]:
    """A command in the middle of its imports."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(SLOW_TORCH)
    with start(*words, path=folder, **options) as process:
        assert process.stdout.readline() == "importing\n", process.communicate()
        yield process


@pytest.fixture(autouse=True)
def none_ignored() -> Iterator[None]:
    """Under nohup, or in the background of a script, what the tests start would rightly ignore some of the signals."""
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in STOPS:
        if before[number] == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_stops_a_command() -> None:
    assert signals.NAMES == ("SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGUSR1")


# -- before training, and in tools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOPS)
def test_a_command_leaves_in_order(number: int) -> None:
    process = command("ready(), time.sleep(600)")
    process.send_signal(number)
    assert ended(process) == (128 + number, "left in order\n", f"stopped by {number.name}\n")


@pytest.mark.parametrize("words", [[script] for script in SCRIPTS] + [["-m", module] for module in MODULES])
def test_imports_are_left_at_once(tmp_path: Path, words: list[str]) -> None:
    """A signal each, in turn."""
    number = STOPS[sum(map(len, words)) % len(STOPS)]
    with slow_imports(tmp_path, *words) as process:
        process.send_signal(number)
        assert ended(process) == (128 + number, "", f"stopped by {number.name}\n")


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """As nohup, and a shell for what it starts behind an &, leave them."""

    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    with slow_imports(tmp_path, "gan_mnist.py", preexec_fn=ignore) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 128 + signal.SIGTERM


def test_under_torchrun_ignored_signals_count() -> None:
    """torchrun hears them all the same, passes them on, and kills who stays."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TORCHELASTIC_RUN_ID": "1"}
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    process = command("ready(), time.sleep(600)", env=environment, preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    assert ended(process)[0] == 128 + signal.SIGHUP


LOCKED_TWICE = """import ctypes
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    ready()
    libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)"""
SWALLOWED = """
    try: ready(), time.sleep(600)
    except BaseException: time.sleep(600)"""


@pytest.mark.parametrize("work", [LOCKED_TWICE, SWALLOWED], ids=["native", "swallowed"])
def test_who_does_not_come_to_obey_is_ended(work: str) -> None:
    process = command(work, "signals.GRACE_S = 0.2")
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, err) == (128 + signal.SIGTERM, "stopped by SIGTERM\n")


def test_the_way_out_is_silent() -> None:
    """What turns the stop into an error of its own changes neither exit code nor output."""
    process = command("""
    try: ready(), time.sleep(600)
    except BaseException as error: raise ImportError("initialisation failed") from error""")
    process.send_signal(signal.SIGTERM)
    assert ended(process)[::2] == (128 + signal.SIGTERM, "stopped by SIGTERM\n")


def test_output_that_nobody_reads_ends_nothing() -> None:
    process = command("""
    ready(), sys.stdin.readline()
    print("into the void", flush=True), print("a line", file=sys.stderr, flush=True)
    sys.exit(7)""", stdin=subprocess.PIPE)  # fmt: skip
    process.stdout.close(), process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 7


# -- decoding ------------------------------------------------------------------------------------------------------

DECODING = """
import fcntl, os, time
import signals
signals.as_command()
from images import cache, decoding

class Source:
    name, where, n_images = "slow", "slow images", None
    def stamp(self): return 1
    def chunks(self, shape): return decoding.decode_all((decoding.Member(str(i), b"") for i in range(2000)), shape)
    def layout(self, names): raise AssertionError

def slowly(members, shape):
    os.write(1, f"worker {os.getpid()}\\n".encode())  # at once: print takes several writes, and there are two workers
    time.sleep(600)

decoding.decode_chunk, decoding.n_cores = slowly, lambda: 2
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
cache.load_table(Source, (8, 8, 1), "cache", True)
"""


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on a file."""
    import fcntl

    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["process", "group"])
@pytest.mark.parametrize("number", [*STOPS, signal.SIGKILL])
def test_decoding_leaves_nothing(tmp_path: Path, number: int, to: object) -> None:
    """Workers die with their parent, nothing temporary stays, and the parent's locks are free."""
    process = start("-c", DECODING, cwd=tmp_path)
    workers = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    assert len(set(workers)) == 2 and is_locked(tmp_path / "lock")
    to(process.pid, number)
    code, _, err = ended(process)  # both ends of the pipes are closed: workers held them, too
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not is_locked(tmp_path / "lock")
    if number != signal.SIGKILL:
        assert (code, err) == (128 + number, f"stopped by {number.name}\n")
        assert list((tmp_path / "cache").iterdir()) == []


def test_waiting_for_anothers_decoding_is_left(tmp_path: Path) -> None:
    process = command(
        "cache.load_table(ready, (8, 8, 1), 'cache', False)", "from images import cache", cwd=tmp_path
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (128 + signal.SIGTERM, "left in order\n", "stopped by SIGTERM\n")


# -- training ------------------------------------------------------------------------------------------------------

TINY = {
    "dataset": "digits", "img_size": 16, "z_dim": 8, "batch_size": 8, "g_kwargs": {"width": 4},
    "d_kwargs": {"width": 4}, "loggers": (), "device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("number", STOPS)
def test_training_saves_and_gives_handlers_back(tmp_path: Path, number: int) -> None:
    """From Python: Ctrl-C is KeyboardInterrupt, and who calls has the handlers that were there."""

    def on_step(step: int, values: object) -> None:
        if step == 3:
            signal.raise_signal(number)
            signal.raise_signal(number)  # an echo

    handler = lambda number, frame: None  # noqa: E731
    before = signal.signal(number, handler)
    try:
        config = TrainConfig(**TINY, n_steps=50, runs_dir=str(tmp_path), log_name="a")
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else signals.Stopped) as stop:
            train(config, on_step=on_step)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert number == signal.SIGINT or stop.value.code == 128 + number
    assert [file.name for file in (tmp_path / "a" / "checkpoints").glob("step-*")] == ["step-00000003.pt"]


def test_a_lost_terminal_costs_nothing(tmp_path: Path) -> None:
    """The kernel hangs up: the next line has nowhere to go, and the run is saved."""
    ours, theirs = pty.openpty()
    words = shlex.split(full("--log_name a --n_steps 1000000 --checkpoint_interval 5", tmp_path))
    take_terminal = "import fcntl, os, runpy, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    run_script = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script = str(ROOT / "gan_mnist.py")
    process = start(
        "-c", take_terminal + run_script, script, *words, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    until((tmp_path / "a" / "checkpoints" / "step-00000005.pt").exists)
    os.close(ours)
    assert process.wait(PATIENCE_S) == 128 + signal.SIGHUP
    steps = [int(file.stem[5:]) for file in (tmp_path / "a" / "checkpoints").glob("step-*.pt")]
    assert max(steps) % 5 or len(steps) > 1


@pytest.mark.parametrize(
    ("number", "pause", "code"),
    [
        (signal.SIGTERM, 0.0, 0),
        (signal.SIGTERM, 0.5, -signal.SIGTERM),
        (signal.SIGINT, 0.5, -signal.SIGINT),
        (signal.SIGHUP, 0.5, 0),
        (signal.SIGXCPU, 0.5, 0),
    ],
)
def test_a_second_signal_kills_but_an_echo_does_not(number: int, pause: float, code: int) -> None:
    """`timeout` sends two at once, closing terminals and the limit of CPU time one after the other."""
    work = f"""
    run = signals.Signals()
    with run.noted(): ready(), sys.stdin.readline()
    sys.exit(run.received != {int(number)})"""
    process = command(work, "signals.ECHO_S = 0.3", stdin=subprocess.PIPE)
    for _ in range(2):
        process.send_signal(number)
        time.sleep(pause)
    assert process.communicate("\n", timeout=PATIENCE_S)[1] == "" and process.returncode == code


def test_processes_ask_each_other_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of slow steps each, of quick ones few: launchers kill half a minute after the signal."""

    def asked(seconds: float) -> list[int]:
        clock, steps = [0.0], []
        monkeypatch.setattr("training.loop.time", SimpleNamespace(monotonic=lambda: clock[0]))
        loop = SimpleNamespace(
            n_processes=2, signals=signals.Signals(), device="cpu", _asked=(0.0, 0), _ask_at=0
        )
        loop.accelerator = SimpleNamespace(gather=lambda given: (steps.append(loop.step), given)[1])
        for loop.step in range(1, 101):
            clock[0] += seconds
            assert Loop._agreed_signal(loop, False) == 0
        loop.signals.received = 15
        assert Loop._agreed_signal(loop, True) == 15
        return steps[:-1]

    assert asked(3.0) == list(range(1, 101)) and len(asked(0.1)) < 10


# -- launchers -----------------------------------------------------------------------------------------------------


def test_two_processes_save_and_end_with_their_launcher(tmp_path: Path) -> None:
    """HUP to torchrun's group, which its processes are no part of."""
    words = shlex.split(full("--log_name a --n_steps 1000000 --checkpoint_interval 5", tmp_path))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = start(*torchrun, str(ROOT / "gan_mnist.py"), *words)
    until(
        lambda: (tmp_path / "a" / "checkpoints" / "step-00000005.pt").exists() or process.poll() is not None
    )
    os.killpg(process.pid, signal.SIGHUP)
    _, out, err = ended(process)  # the pipes are closed: all have ended
    (line,) = (line for line in out.splitlines() if line.startswith("stopped by"))
    at = int(line.split("at step ")[1].split(";")[0])
    assert (
        line.startswith("stopped by SIGHUP")
        and (tmp_path / "a" / "checkpoints" / f"step-{at:08d}.pt").exists()
    )
    assert "gan_mnist.py" not in err.split("Received")[0]  # no traceback of ours; torchrun writes its own


def test_launchers_are_known_by_what_they_set() -> None:
    def launched(environment: dict[str, str]) -> bool:
        with patch.dict(os.environ, environment, clear=True):
            return signals.has_launcher()

    with patch.dict(os.environ, clear=True):
        args = launch_command_parser().parse_args(["--cpu", "--num_machines", "1", "x.py"])
        args.mixed_precision, args.dynamo_backend, args.num_cpu_threads_per_process = "no", "no", 1
        _, given = prepare_simple_launcher_cmd_env(args)
    assert launched(given) and launched({"TORCHELASTIC_RUN_ID": "1"})
    assert not launched({"ACCELERATE_LOG_LEVEL": "info", "ACCELERATE_MIXED_PRECISION": "no", "RANK": "0"})


@pytest.mark.parametrize("name", ["TORCHELASTIC_RUN_ID", "ACCELERATE_LOG_LEVEL"])
def test_only_a_launchers_death_is_followed(tmp_path: Path, name: str) -> None:
    """The parent is a shell that dies as soon as the command is ready."""
    script = COMMAND.format(more="", work="open('ready', 'w'), time.sleep(1), open('lived on', 'w')")
    (tmp_path / "command.py").write_text(script)
    shell = f"{sys.executable} command.py >out 2>err & until test -e ready; do sleep 0.02; done; kill -9 $$"
    environment = os.environ | {"PYTHONPATH": str(ROOT), name: "1"}
    subprocess.run(["sh", "-c", shell], cwd=tmp_path, env=environment)
    until(lambda: "left in order" in (tmp_path / "out").read_text())
    assert (tmp_path / "lived on").exists() == (name == "ACCELERATE_LOG_LEVEL")


# -- Windows -------------------------------------------------------------------------------------------------------

LACKING = """
import os, signal, sys
for name in "SIGUSR1 SIGUSR2 SIGHUP SIGXCPU SIGALRM SIGKILL SIGCHLD SIGPIPE SIGQUIT pthread_sigmask".split():
    delattr(signal, name)
for name in ("getuid geteuid getgid fork sched_getaffinity posix_fadvise killpg setsid fchmod chown mkfifo "
             "O_NONBLOCK O_NOFOLLOW O_DIRECTORY").split():
    delattr(os, name)
sys.modules |= dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios", "pty"))

held_fsync, held_replace = os.fsync, os.replace

def files_open():
    return {os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}

def replace(source, target, **more):
    if files_open() & {os.path.realpath(source), os.path.realpath(target)}:
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")
    held_replace(source, target, **more)

def fsync(descriptor):
    with open(f"/proc/self/fdinfo/{descriptor}") as about:
        flags = int(about.read().split("flags:")[1].split()[0], 8)
    if flags & os.O_ACCMODE == os.O_RDONLY and not os.path.isdir(f"/proc/self/fd/{descriptor}"):
        raise OSError(9, "Bad file descriptor")
    held_fsync(descriptor)

os.fsync, os.replace = fsync, replace
"""


def test_windows_starts_trains_and_resumes(tmp_path: Path) -> None:
    """Without the names that it lacks; what is open is not replaced, what is open for reading not flushed."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "faces").mkdir()
    for i, x in enumerate(pixels):
        Image.fromarray(x).save(tmp_path / "faces" / f"{i}.png")
    small = "--device cpu --img_size 16 --z_dim 8 --batch_size 8 --g_kwargs width=4 --d_kwargs width=4"
    first = f"{small} --runs_dir runs --log_name a --n_steps 2 --data faces --cache_dir cache".split()
    again = ["--runs_dir", "runs", "--log_name", "a", "--resume", "--n_steps", "4"]
    drawn = ["runs/a", "--n", "4", "--device", "cpu", "--out", "a.png"]
    text = (
        f"{LACKING}\nimport signals\nsignals.as_command()\nimport gan_celeba\n"
        f"assert gan_celeba.main({first}) == 0\nassert gan_celeba.main({again}) == 0\n"
        f"from tools import sample\nassert sample.main({drawn}) == 0\nprint('all done')\n"
    )
    code, out, err = ended(start("-c", text, cwd=tmp_path))
    assert code == 0 and "all done" in out and "resumed at step 2" in out, err
    # the lock of a real Windows, msvcrt's, is not there either
    said = [line for line in err.replace("warnings.warn", "").splitlines() if "cannot be locked" not in line]
    assert "warning" not in "".join(said), err
    assert (tmp_path / "a.png").is_file()
