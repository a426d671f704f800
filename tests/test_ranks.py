"""Processes that belong together: they meet, the first that fails ends all, none needs the main one's files."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

import training.peers
import training.processes
from errors import Unlearned, UserError, cli
from ops.launched import Launched, launched, world_size
from tests.running import ROOT, differing, full, state
from training.links import linked
from training.peers import Left, Peers
from training.processes import asked_by_main, peers

STORE_AT = training.peers.store_at
TWO = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871"}


# What launchers say


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("WORLD_SIZE", "x", "WORLD_SIZE x"),
        ("WORLD_SIZE", "0", "at least 1"),
        ("WORLD_SIZE", "2.0", "WORLD_SIZE 2.0"),
        ("WORLD_SIZE", "9" * 5000, "WORLD_SIZE 999"),
        ("RANK", "x\n\x1b[2J", r"RANK x\n\x1b[2J"),
        ("RANK", "2", "RANK 2 must be less than WORLD_SIZE 2"),
        ("RANK", "-1", "RANK -1"),
        ("RANK", None, "RANK is not"),
        ("LOCAL_RANK", "x", "LOCAL_RANK x"),
        ("MASTER_ADDR", None, "MASTER_ADDR is not set"),
        ("MASTER_ADDR", "a b", "MASTER_ADDR a b"),
        ("MASTER_ADDR", "", "MASTER_ADDR"),
        ("MASTER_PORT", "70000", "MASTER_PORT 70000"),
        ("MASTER_PORT", "port", "MASTER_PORT port"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_malformed_variable_is_one_line_of_any_process(
    monkeypatch, capsys, rank, name, value, words
) -> None:
    for key, usual in (TWO | {"RANK": rank}).items():
        monkeypatch.setenv(key, usual)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert cli(lambda argv: peers())([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line and len(line) < 300


def test_one_process_needs_no_variables(monkeypatch) -> None:
    for name in TWO:
        monkeypatch.delenv(name, raising=False)
    assert world_size() == 1 and launched() is None
    with peers().turns():
        assert peers().from_main(lambda: 3) == 3


def test_what_a_launcher_says(monkeypatch) -> None:
    for key, value in (
        TWO | {"RANK": "1", "LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ).items():
        monkeypatch.setenv(key, value)
    assert launched() == Launched(1, 2, 0, "127.0.0.1", 29871, True, "0")
    monkeypatch.delenv("MASTER_PORT")
    assert launched().place == "127.0.0.1:29500"


# Meeting, in threads of one process


class Ended(BaseException):
    """A process ended from outside."""


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Launched]:
    """Three that meet at a free port; short times."""
    for name, seconds in (
        ("WAIT", 0.3),
        ("LOOK", 0.02),
        ("GRACE", 0.4),
        ("ECHO", 0.2),
        ("SETTLE", 0.1),
    ):
        monkeypatch.setattr(training.peers, name, seconds)
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # as a launcher's
    # torch takes seconds to join a store now and then, where no name server answers: all use one end of it
    monkeypatch.setattr(training.peers, "store_at", lambda address, port: store)
    return [Launched(rank, 3, rank, "127.0.0.1", store.port, True, "0") for rank in range(3)]


def together(*actions: Callable[[], Any]) -> list[Any]:
    """What each gives, or raises, in threads of their own."""
    found: list[Any] = [None] * len(actions)

    def act(i: int) -> None:
        try:
            found[i] = actions[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=act, args=[i]) for i in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return found


def met(places: list[Launched]) -> list[Peers]:
    """Processes that have met."""
    all_of_them = [Peers(place) for place in places]
    assert together(*(one.meet for one in all_of_them)) == [None] * len(places)
    return all_of_them


def turn(one: Peers, action: Callable[[], Any]) -> Callable[[], Any]:
    """action() as a turn of a process."""

    def run() -> Any:
        with one.turns():
            return action()

    return run


def wait_for_ever(one: Peers) -> Callable[[], Any]:
    """What a process does in a collective: nothing, until it learns that another has failed."""
    return lambda: one._wait_for(lambda: False)


def test_the_main_process_decides_for_all(places) -> None:
    """Twice: a second run goes on with the same processes. Its refusal is an error of all, which go on too."""
    three = met(places)
    for value in (1, {"a": [2]}):
        asked = [turn(one, lambda one=one, value=value: one.from_main(lambda: value)) for one in three]
        assert together(*asked) == [value] * 3

    def refuse() -> None:
        raise UserError("--lr 0 must be more")

    errors = together(*(turn(one, lambda one=one: one.from_main(refuse)) for one in three))
    assert [type(e) for e in errors] == [UserError] * 3 and {str(e) for e in errors} == {"lr 0 must be more"}
    assert not any(e.alone for e in errors)  # the first says it
    assert together(*(turn(one, lambda one=one: one.from_main(lambda: 4)) for one in three)) == [4] * 3


@pytest.mark.parametrize("kind", [UserError, Unlearned])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_first_that_fails_says_it_and_the_others_leave(places, rank, kind) -> None:
    three = met(places)

    def fail() -> None:
        raise kind("--data: nothing there")

    actions = [wait_for_ever(one) for one in three]
    actions[rank] = fail
    errors = together(*(turn(one, action) for one, action in zip(three, actions, strict=True)))
    said = errors.pop(rank)
    assert said.for_command_line == (f"rank {rank}: " if rank else "") + "--data: nothing there"
    assert said.alone == (rank > 0)
    assert [(type(e), e.code) for e in errors] == [(Left, kind.exit_code)] * 2


def test_a_bug_is_shown_by_one_and_errors_that_follow_from_it_by_none(places) -> None:
    """A connection that breaks because another process failed is no error of its own."""
    three = met(places)

    def broken() -> None:
        wait = threading.Event()
        wait.wait(0.05)
        raise RuntimeError("Connection closed by peer")

    def bug() -> None:
        raise KeyError("a bug")

    actions = [broken, bug, wait_for_ever(three[2])]
    errors = together(*(turn(one, action) for one, action in zip(three, actions, strict=True)))
    kinds = [type(e) for e in errors]
    assert sorted(kinds, key=str) in ([KeyError, Left, Left], [RuntimeError, Left, Left])
    (shown,) = [e for e in errors if not isinstance(e, Left)]
    assert {e.code for e in errors if isinstance(e, Left)} == {1}
    assert shown.__notes__ == ["on rank 1"] if isinstance(shown, KeyError) else True


def test_what_all_find_wrong_is_said_once_without_a_rank(places) -> None:
    three = met(places)

    def fail() -> None:
        raise UserError("--batch_size 9 is not divisible")

    errors = together(*(turn(one, fail) for one in three))
    assert {e.for_command_line for e in errors} == {"--batch_size 9 is not divisible"}
    assert not any(e.alone for e in errors)


def test_a_stop_is_no_failure(places) -> None:
    three = met(places)

    def stop() -> None:
        raise SystemExit(143)

    assert {e.code for e in together(*(turn(one, stop) for one in three))} == {143}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_process_is_missed_at_once(places, rank, capsys) -> None:
    three, all_inside = met(places), threading.Barrier(3)

    def wait(one: Peers) -> None:
        all_inside.wait()
        one._wait_for(lambda: False)

    def die() -> None:
        all_inside.wait()
        three[rank].inside = False  # it hears nothing any more
        for link in three[rank].links.values():
            link.close()
        raise Ended

    actions = [partial(wait, one) for one in three]
    actions[rank] = die
    errors = together(*(turn(one, action) for one, action in zip(three, actions, strict=True)))
    errors.pop(rank)
    assert [(type(e), e.code) for e in errors] == [(Left, 1)] * 2
    text = capsys.readouterr().err
    assert f"error: rank {rank} (" in text and "ended without a word" in text
    assert text.count("error: ") == 1


def test_a_process_in_a_collective_is_ended_from_outside(places, monkeypatch) -> None:
    codes, ended = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))
    three = met(places)

    def fail() -> None:
        raise UserError("no")

    def collective() -> None:
        assert ended.wait(20)

    def follow() -> None:  # one that leaves by itself is left alone
        raise RuntimeError("Connection closed by peer")

    errors = together(turn(three[0], collective), turn(three[1], fail), turn(three[2], follow))
    assert codes == [2] and isinstance(errors[2], Left)


def test_one_that_works_for_long_is_waited_for(places) -> None:
    """Nobody leaves before the last, which nobody takes for dead; then each may go without a word."""
    three = met(places)
    left: list[int] = []

    def work() -> None:
        threading.Event().wait(1.0)
        left.append(0)

    together(turn(three[0], work), *(turn(one, lambda: None) for one in three[1:]))
    assert left == [0]
    for link in three[0].links.values():
        link.close()
    assert all(one.first is None for one in three)


# Waiting for others


def test_a_wait_says_for_whom(places, capsys, monkeypatch) -> None:
    """By hand, where each has a terminal of its own: of those that are here, each says it."""
    monkeypatch.setattr(training.peers, "store_at", STORE_AT)
    port = free_port()
    three = [Peers(replace(place, by_agent=False, port=port)) for place in places]
    lines: dict[str, int] = {}

    def late() -> None:
        while sum(lines.values()) < 4:
            for line in capsys.readouterr().err.splitlines():
                lines[line] = lines.get(line, 0) + 1
            threading.Event().wait(0.05)
        three[2].meet()

    assert together(three[0].meet, three[1].meet, late) == [None] * 3
    place = f"127.0.0.1:{port}"
    assert set(lines) <= {
        f"waiting for 1 more process (rank 2) at {place}", f"waiting for 2 more processes (ranks 1, 2) at {place}",
    }  # fmt: skip


def test_a_wait_for_the_main_process_says_so(places, capsys, monkeypatch) -> None:
    monkeypatch.setattr(training.peers, "store_at", STORE_AT)
    port = free_port()
    two = [Peers(replace(place, world_size=2, by_agent=False, port=port)) for place in places[:2]]

    def late() -> str:
        text = ""
        while text.count("\n") < 2:
            text += capsys.readouterr().err
            threading.Event().wait(0.05)
        two[0].meet()
        return text

    text, other = together(late, two[1].meet)
    assert other is None
    assert text.splitlines() == [f"waiting for rank 0 at 127.0.0.1:{port}"] * 2


def test_ranks_are_taken_once_and_all_count_alike(places) -> None:
    a, b, c = (Peers(place) for place in places)
    twice, more = Peers(places[1]), Peers(replace(places[2], world_size=4))

    def late() -> list[Any]:
        threading.Event().wait(0.5)
        found = together(twice.meet, more.meet)
        c.meet()
        return found

    *others, errors = together(a.meet, b.meet, late)
    assert others == [None, None]
    said = sorted(e.for_command_line for e in errors)
    assert said[0].startswith("RANK 1 is taken by rank 1 (") and said[1].startswith("WORLD_SIZE 4 must be 3")
    assert all(e.alone for e in errors)


def test_a_port_or_host_that_cannot_be_had_is_one_line(places, monkeypatch) -> None:
    monkeypatch.setattr(training.peers, "store_at", STORE_AT)
    taken = replace(places[0], by_agent=False)
    with pytest.raises(UserError, match=f"MASTER_PORT {taken.port} cannot be had") as found:
        Peers(taken).meet()
    assert found.value.alone
    for rank in (0, 1):
        nowhere = replace(places[rank], address="no-such-host.invalid", by_agent=False, port=free_port())
        with pytest.raises(UserError, match="MASTER_ADDR no-such-host.invalid"):
            Peers(nowhere).meet()


def test_others_hear_of_a_refused_command_line(places, monkeypatch, capsys) -> None:
    """They ask nothing themselves: the main process's command line counts."""

    def ask() -> None:
        raise UserError("--lr 0 must be more")

    monkeypatch.setattr(training.processes, "launched", lambda: places[1])
    assert asked_by_main(ask) is None
    monkeypatch.setattr(training.processes, "launched", lambda: places[0])
    errors = together(lambda: asked_by_main(ask), *(Peers(place).meet for place in places[1:]))
    assert [e.code for e in errors] == [2, 2, 2]
    assert capsys.readouterr().err == "error: --lr 0 must be more\n"


def test_strangers_are_not_listened_to(places) -> None:
    """One that does not know the token is shut out, and the others meet."""
    a, *others = (Peers(place) for place in places)

    def stranger() -> bytes:
        store = training.peers.store_at(places[0].address, places[0].port)
        until = time.monotonic() + 20
        # to wait inside of `get` would keep the others, who use the same end, from setting it
        while not store.check(["peers/0"]) and time.monotonic() < until:
            time.sleep(0.02)
        port = int(store.get("peers/0").decode().split()[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"x" * 64)
            connection.settimeout(20)
            try:
                answer = connection.recv(1)
            except ConnectionError:
                answer = b""
        assert together(*(one.meet for one in others)) == [None, None]
        return answer

    assert together(a.meet, stranger) == [None, b""]


def test_one_that_is_started_again_while_others_are_awaited_is_one_of_them(places) -> None:
    a, *others = (Peers(place) for place in places)

    def twice() -> None:
        address, port, token = places[0].address, *others[0]._door()
        link = linked(address, port, token)
        link.send("here", 1, 3, "one that dies")
        with a.changed:
            assert a.changed.wait_for(lambda: 1 in a.links, 20)
        link.close()
        with a.changed:
            assert a.changed.wait_for(lambda: 1 in a.gone, 20)
        assert together(*(one.meet for one in others)) == [None, None]

    assert together(a.meet, twice) == [None, None]
    assert together(*(turn(one, lambda one=one: one.from_main(lambda: 1)) for one in (a, *others))) == [1] * 3


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# Two nodes without a common folder

NODE = """
import os, sys
from errors import UserError, cli
from tests.running import cheap, request
from training.folder import planned
from training.loop import Loop
from training.processes import leave_group, peers
from training.run import run_plan

def run_step(loop, plain=Loop.run_step):
    plain(loop)
    name, G = loop.config.log_name, loop.networks["G"]
    if loop.step == 4 and (name == "lost" or name == "saved" and loop.attempt == 0):
        G.params[0].data.fill_(float("nan"))

def fail(step, values):
    if step == 3 and os.environ["RANK"] == "1":
        raise UserError("the images are gone")

@cli
def main(argv):
    with cheap(), (others := peers()).turns():
        plan = others.from_main(lambda: planned(request(argv[0])))
        run_plan(plan, on_step=fail if "fails" in argv[0] else None)

Loop.run_step = run_step
try:
    for command in sys.argv[1:]:
        code = main([command])
        print("code", code, file=sys.stderr)
finally:
    leave_group()
sys.exit(code)
"""


def on_two_nodes(folder: Path, commands: list[str], *, by_hand: bool) -> list[tuple[int, str]]:
    """Train the commands on two nodes, each in a folder of its own: of each, exit code and what it said on stderr."""
    port = str(free_port())
    running = []
    for node in range(2):
        (home := folder / f"node{node}").mkdir(exist_ok=True)
        (home / "node.py").write_text(NODE)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        place = [
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--nproc_per_node",
            "1",
            "--node_rank",
            str(node),
        ]
        place += ["--master_addr", "127.0.0.1", "--master_port", port]
        if by_hand:
            environment |= TWO | {"RANK": str(node), "MASTER_PORT": port}
            place = []
        command = [sys.executable, *place, "node.py", *(full(text, Path("runs")) for text in commands)]
        pipes = {"text": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, cwd=home, env=environment, **pipes))
    try:
        told = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, text) for process, text in zip(running, told, strict=True)]


def test_two_nodes_resume_without_a_common_folder(tmp_path: Path) -> None:
    """Bit for bit, though one of them has no file of the run. What one of them meets, and a refusal, end both.

    Weights that are lost once, and again and again: both go back together, and end together.
    """
    every = "--n_steps 6 --checkpoint_interval 3 --ema"
    commands = [
        f"--log_name whole {every}",
        f"--log_name part {every} --n_steps 3",
        f"--log_name saved {every}",
        f"--log_name lost {every}",
        f"--log_name fails {every}",
    ]
    (code, main), (other_code, other) = on_two_nodes(tmp_path, commands, by_hand=True)
    assert (code, other_code) == (2, 2), main + other
    (lost,) = errors_of(main)
    assert lost.startswith("error: training diverged at step 6 again after 3 rollbacks"), lost
    assert errors_of(other) == ["error: rank 1: the images are gone"]
    assert [re.findall(r"^code (\d)", text, re.M)[:4] for text in (main, other)] == [["0", "0", "0", "3"]] * 2
    assert main.count("back to step 3 with new noise") == 1 + 3
    runs = tmp_path / "node0" / "runs"
    assert not (tmp_path / "node1" / "runs").exists()

    commands = ["--log_name part --resume --n_steps 6", "--log_name nowhere --resume"]
    (_, main), (_, other) = on_two_nodes(tmp_path, commands, by_hand=False)
    assert "code 0" in main, main + other
    assert differing(state(runs, "whole", 6), state(runs, "part", 6)) == []
    assert not (tmp_path / "node1" / "runs").exists()
    (line,) = errors_of(main)
    assert "runs/nowhere holds no run" in line and errors_of(other) == []
    assert all("exitcode  : 2" in text for text in (main, other))


def errors_of(stderr: str) -> list[str]:
    """The lines of errors; no process but torchrun's own shows a traceback."""
    assert stderr.count("Traceback") == stderr.count("ChildFailedError:"), stderr
    return [line for line in stderr.splitlines() if line.startswith("error: ")]
