"""Files are written whole or not at all, owned by one process, and read with bounds."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import disk
from errors import shown


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


def test_unfinished_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, of_dead = disk.temporary_of(tmp_path / "a.pt"), tmp_path / f"tmp-{disk._host()}-{dead.pid}-a.pt"
    living, elsewhere = (
        tmp_path / f"tmp-{disk._host()}-{os.getppid()}-a.pt",
        tmp_path / f"tmp-other-{dead.pid}-a.pt",
    )
    for file in (mine, of_dead, living, elsewhere, tmp_path / "tmp-of-mine.pt"):
        file.touch()
    disk.remove_stale(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {living.name, elsewhere.name, "tmp-of-mine.pt"}
    disk.remove_stale(tmp_path, owned=True)
    assert {p.name for p in tmp_path.iterdir()} == {"tmp-of-mine.pt"}
    disk.remove_stale(tmp_path / "absent")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed")
def test_a_folder_has_one_owner_who_is_named_and_whose_death_frees_it(tmp_path: Path) -> None:
    code = f"import disk, time\nwith disk.locked({str(tmp_path)!r}):\n    print('mine', flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(disk.Busy, match=f"process {owner.pid} on"), disk.locked(tmp_path):
        pass
    owner.kill()
    owner.wait()
    with (
        disk.locked(tmp_path),
        pytest.raises(disk.Busy, match=f"process {os.getpid()} on"),
        disk.locked(tmp_path),
    ):
        pass
    with disk.locked(tmp_path):
        pass


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
