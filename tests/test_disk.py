"""Files are written whole or not at all, owned by one process, and read with bounds."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import disk
from errors import shown
from tests.running import full_disk


def test_a_file_appears_whole_with_the_mode_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        disk.put(tmp_path / "a.json", "old")
        with disk.replacing(tmp_path / "a.json") as temporary:
            temporary.write_text("new")
            temporary.chmod(0o600)  # as safetensors and tempfile make theirs
            assert (tmp_path / "a.json").read_text() == "old" and disk.is_temporary(temporary.name)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").read_text() == "new"
    assert os.name != "posix" or stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    disk.put(tmp_path / "a", b"old")
    with pytest.raises(OSError, match="full"), disk.replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise OSError("full")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("left", [b"", b"one\n", b"one\nhal", b"hal", b"one\n" + b"x" * 9000])
def test_a_line_goes_after_the_last_whole_one(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "log").write_bytes(left)
    disk.append_line(tmp_path / "log", "two")
    assert (tmp_path / "log").read_bytes() == left[: left.rfind(b"\n") + 1] + b"two\n"


N = "1x0123abcd"  # of a temporary name


def test_unfinished_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, me, parent = disk._host(), os.getpid(), os.getppid()
    mine = disk.temporary_of(tmp_path / "mine.pt").name
    living = {mine, f"tmp-{here}-{parent}-{N}-a.pt", f"tmp-other-{dead.pid}-{N}-a.pt"}
    of_container = f"tmp-container-{parent}-{N}-a.pt"
    left = {f"tmp-{here}-{dead.pid}-{N}-a.pt", f"tmp-{here}-{me}-{N}-before-me.pt", of_container}
    for name in {*living, *left, "tmp-of-mine.pt", "tmp-a-1-x.png"}:
        (tmp_path / name).touch()
    os.utime(tmp_path / of_container, (1, 1))
    disk.remove_stale(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*living, "tmp-of-mine.pt", "tmp-a-1-x.png"}
    disk.remove_stale(tmp_path, owned=True)
    assert {p.name for p in tmp_path.iterdir()} == {"tmp-of-mine.pt", "tmp-a-1-x.png"}
    disk.remove_stale(tmp_path / "absent")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed")
def test_a_folder_has_one_owner_who_is_named_and_whose_death_frees_it(tmp_path: Path) -> None:
    code = f"""
import disk, os, time
with disk.locked({str(tmp_path)!r}):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(owner.stdout.readline())
    with pytest.raises(disk.Busy, match=f"process {owner.pid} on"), disk.locked(tmp_path):
        pass
    owner.kill()
    owner.wait()
    os.kill(child, 0)  # it lives, and does not hold what it has inherited
    with (
        disk.locked(tmp_path),
        pytest.raises(disk.Busy, match=f"process {os.getpid()} on"),
        disk.locked(tmp_path),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    with disk.locked(tmp_path) as stands:
        assert stands()
        (tmp_path / disk.LOCK).unlink()
        assert not stands()
        with disk.locked(tmp_path):  # another's file of that name stays
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(disk.fcntl is None, reason="locks of POSIX")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, code: int
) -> None:
    def without(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(disk.fcntl, "flock", without)
    with disk.locked(tmp_path):
        said = capsys.readouterr().err
        assert said.startswith("warning: ") and "cannot be locked" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(disk.fcntl is None, reason="limits of POSIX")
def test_a_disk_that_is_full_in_the_middle_of_a_line_takes_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\n")
    with full_disk(6):
        for write in (disk.append_line, lambda path, text: disk.append(path, text.encode()), disk.put):
            with pytest.raises(OSError, match="large"):
                write(tmp_path / "log", "two and more")
    assert (tmp_path / "log").read_bytes() == b"one\n" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert disk.read_bytes(tmp_path / "a", 5) == b"12345"
    for name, reason in {
        "fifo": "no regular file",
        "zero": "no regular file",
        "absent": "cannot be read",
        "a": "larger than 4",
        "a\0b": "cannot be read",
        ".": "no regular file",
    }.items():
        with pytest.raises(disk.Unreadable, match=reason) as caught:
            disk.read_bytes(tmp_path / name, 4)
        assert "\0" not in caught.value.for_command_line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "9" * 5000,
        '{"a": "x"}',
        '{"a": 1e999}',
        '{"a": NaN}',
        "[1]",
        '{"a": "\ud800"}',
    ],
)
def test_json_is_what_its_reader_expects_or_one_line(text: str) -> None:
    assert disk.decode_json('{"a": 1}', dict[str, int], "x.json") == {"a": 1}
    with pytest.raises(disk.Unreadable, match=r"^x\.json is damaged: ") as caught:
        disk.decode_json(text, dict[str, int], "x.json")
    assert len(str(caught.value).splitlines()) == 1


def test_names_from_outside_are_shown_escaped() -> None:
    assert shown("a\x1b[31mb\nc\u202ed é") == r"a\x1b[31mb\nc\u202ed é"
    assert shown("x" * 400) == "x" * 300 + "..."
    assert shown("\udcff") == r"\udcff"


def test_temporary_names_are_new_each_time_and_fit(tmp_path: Path) -> None:
    for name in ("x.png", "é" * 122 + "n.png"):  # 249 bytes
        made = {disk.temporary_of(tmp_path / name).name for _ in range(9)}
        assert len(made) == 9 and all(disk.is_temporary(t) and t.endswith(name[-5:]) for t in made)
        disk.put(tmp_path / name, "x")
    assert len(list(tmp_path.iterdir())) == 2


def test_looking_for_an_owner_leaves_the_lock_as_it_is(tmp_path: Path) -> None:
    disk.refuse_owned(tmp_path)
    assert not list(tmp_path.iterdir())
    with disk.locked(tmp_path), pytest.raises(disk.Busy, match=f"process {os.getpid()} on"):
        disk.refuse_owned(tmp_path)
    (lock := tmp_path / disk.LOCK).write_text(f"elsewhere {os.getpid()}\n")
    disk.refuse_owned(tmp_path)
    assert lock.read_text() == f"elsewhere {os.getpid()}\n"
