"""Weights of others, made to do harm: pickles with calls in them, with other operations, with bombs."""

import io
import pickle
import pickletools
import random
import signal
import struct
import time
import traceback
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from errors import UserError
from generation.importing.weights import import_weights
from studies.attacks.children import memory_of
from studies.attacks.runs import LIMIT_MB, LIMIT_S, Case, Lab

AT_ONCE = 100
FAILED = "FAILED"
CANARY = "executed"  # the file that a call within a pickle would make
MARK, STOP = b"(", b"."

# -- files that are as they should be ----------------------------------------------------------------------------------


def small_weights() -> dict[str, torch.Tensor]:
    """A G of official StyleGAN2 for 8 px, 4 channels."""
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (4,), "synthesis.b4.const": (4, 4, 4)}
    for i in range(2):
        shapes |= {f"mapping.fc{i}.weight": (4, 4), f"mapping.fc{i}.bias": (4,)}
    for size, layers in ((4, ("conv1",)), (8, ("conv0", "conv1"))):
        for name in layers:
            layer = f"synthesis.b{size}.{name}"
            shapes |= {
                f"{layer}.weight": (4, 4, 3, 3),
                f"{layer}.noise_const": (size, size),
                f"{layer}.noise_strength": (),
            }
            shapes |= {f"{layer}.bias": (4,), f"{layer}.affine.weight": (4, 4), f"{layer}.affine.bias": (4,)}
        image = f"synthesis.b{size}.torgb"
        shapes |= {f"{image}.weight": (3, 4, 1, 1), f"{image}.bias": (3,)}
        shapes |= {f"{image}.affine.weight": (4, 4), f"{image}.affine.bias": (4,)}
    source = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


@cache
def whole_files() -> tuple[bytes, ...]:
    """The same weights as a plain pickle, as numpy's arrays, as torch's older form and as its zip."""
    weights = small_weights()
    files = [pickle.dumps({"G_ema": weights, "G": weights, "D": None}, 2)]
    files.append(pickle.dumps({"G_ema": {name: x.numpy() for name, x in weights.items()}}, 2))
    for zipped in (False, True):
        file = io.BytesIO()
        torch.save({"G_ema": weights}, file, _use_new_zipfile_serialization=zipped)
        files.append(file.getvalue())
    return tuple(files)


def within(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file with its pickle changed, inside its zip where it is one."""
    if not data.startswith(b"PK"):
        return change(data)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for record in old.infolist():
            content = old.read(record)
            new.writestr(
                record.filename, change(content) if record.filename.endswith("/data.pkl") else content
            )
    return file.getvalue()


# -- ways to spoil them ------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    """The operation that puts a text on the stack."""
    data = value.encode()
    return b"X" + struct.pack("<L", len(data)) + data


def call(module: str, name: str, argument: bytes, how: int = 0) -> bytes:
    """Operations that call a function with one argument, in one of the ways that pickles have."""
    named = f"c{module}\n{name}\n".encode()
    if how == 1:
        named = text(module) + text(name) + b"\x93"
    if how == 2:
        return MARK + argument + f"i{module}\n{name}\n".encode()
    if how == 3:
        return MARK + named + argument + b"o"
    if how == 4:
        return named + argument + b"\x85\x81"
    return named + argument + b"\x85R"


def payload(canary: Path, rng: random.Random) -> bytes:
    """Operations that would make the canary if anything called what they name; they leave the stack as it was."""
    line, code = text(f"touch {canary}"), text(f"open({str(canary)!r}, 'w').close()")
    given = rng.choice([
        ("os", "system", line), ("posix", "system", line), ("subprocess", "getoutput", line),
        ("builtins", "eval", code), ("__builtin__", "eval", code), ("builtins", "exec", code),
        ("torch.serialization", "os.system", line), ("pty", "spawn", line), ("numpy.core.multiarray", "eval", code),
    ])  # fmt: skip
    return call(*given, rng.randrange(5)) + b"0"


def boundaries(data: bytes) -> list[int]:
    """Where operations of the first pickle that holds something begin."""
    start, found = 0, []
    while len(found) < 20 and start < len(data):
        places = []
        for _, _, at in pickletools.genops(data[start:]):
            places.append(start + at)
        found, start = places, places[-1] + 1
    return found


def called(data: bytes, canary: Path, rng: random.Random) -> bytes:
    """A call somewhere between two operations."""
    at = rng.choice(boundaries(data)[1:])
    return data[:at] + payload(canary, rng) + data[at:]


def renamed(data: bytes, canary: Path, rng: random.Random) -> bytes:
    """What rebuilds tensors and arrays is another function."""
    names = [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"ccollections\nOrderedDict\n",
    ]
    here = [name for name in names if name in data]
    evil = rng.choice([b"cos\nsystem\n", b"cbuiltins\neval\n", b"cposix\nexecv\n"])
    return data.replace(rng.choice(here), evil) if here else called(data, canary, rng)


def operated(data: bytes, canary: Path, rng: random.Random) -> bytes:
    """Some operations are others."""
    places, spoilt = boundaries(data), bytearray(data)
    for at in rng.sample(places, min(rng.choice([1, 1, 2, 5, 20]), len(places))):
        spoilt[at] = rng.randrange(256) if rng.random() < 0.3 else ord(rng.choice(pickletools.opcodes).code)
    return bytes(spoilt)


def flipped(data: bytes, canary: Path, rng: random.Random) -> bytes:
    """Some bytes are others."""
    spoilt = bytearray(data)
    for _ in range(rng.choice([1, 4, 30])):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


def cut(data: bytes, canary: Path, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(1, len(data))]


SPOILERS = (called, called, called, renamed, operated, operated, operated, flipped, cut)


def of_state(parameters: bytes, modules: bytes) -> bytes:
    """Operations that make an official module of the dictionaries that others make."""
    state = b"}" + MARK + text("_parameters") + parameters + text("_modules") + modules + b"u"
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}" + text("state") + state + b"s")


def laughs() -> bytes:
    """Modules of ten modules each, thirty deep, all of them the same."""
    data = of_state(b"}", b"}") + b"q\x00"
    for i in range(30):
        parts = b"".join(text(str(k)) + b"h" + bytes([i]) for k in range(10))
        data += b"0" + of_state(b"}", b"}" + MARK + parts + b"u") + b"q" + bytes([i + 1])
    return b"\x80\x02}" + data + b"0" + text("G_ema") + b"h" + bytes([30]) + b"s."


def array(shape: bytes, code: str = "f8", data: bytes = b"C\x00") -> bytes:
    """Operations that make an array of a shape, whatever data there are."""
    kind = (
        call("numpy", "dtype", text(code) + b"K\x00K\x01")[:-2]
        + b"\x87R(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return empty + MARK + b"K\x01" + shape + kind + b"\x89" + data + b"tb"


def whole(n: int) -> bytes:
    """The operation that puts a whole number on the stack."""
    data = n.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + data


def shared() -> bytes:
    """One array of half a megabyte under five thousand names."""
    held = array(whole(2**16) + b"\x85", data=b"B" + struct.pack("<L", 2**19) + bytes(2**19)) + b"q\x00"
    names = b"".join(text(f"synthesis.b4.{i}") + b"h\x00" for i in range(5000))
    return b"\x80\x03" + held + b"0}" + MARK + names + text("synthesis.b4.const") + b"h\x00u."


def stretched(shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A tensor that says it is larger than its storage."""
    file = io.BytesIO()
    torch.save(torch.zeros(4).storage(), file, _use_new_zipfile_serialization=False)
    held = file.getvalue()
    storage = call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<L", len(held)) + held)
    sizes = (MARK + b"".join(map(whole, given)) + b"t" for given in (shape, stride))
    rebuilt = (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + MARK
        + storage
        + b"K\x00"
        + b"".join(sizes)
        + b"\x89Nt"
        + b"R"
    )
    return b"\x80\x03}" + text("synthesis.b4.const") + rebuilt + b"s."


BOMBS: dict[str, Callable[[], bytes]] = {
    "a memo of 2^32 places": lambda: b"\x80\x02]r\xff\xff\xff\xff.",
    "a memo of 10^300 places": lambda: b"(lp" + b"9" * 300 + b"\n.",
    "2^62 bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "an array of 2^62 bytes": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.",
    "a text of 2^40 bytes": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "2^32 bytes": lambda: b"\x80\x03B\xff\xff\xff\xffx.",
    "a number of 2^31 bytes": lambda: b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "a number of a million digits": lambda: b"I" + b"9" * 10**6 + b"\n.",
    "a long number of a million bytes": lambda: b"\x80\x02\x8b" + struct.pack("<l", 10**6) + b"\x7f" * 10**6 + b".",
    "a frame of 2^63 bytes": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
    "ten million lists": lambda: b"\x80\x02" + b"]" * 10**7 + b".",
    "five million sets": lambda: b"\x80\x04" + b"\x8f" * 5 * 10**6 + b".",
    "five million groups": lambda: b"\x80\x02" + MARK * 5 * 10**6 + b".",
    "lists in lists": lambda: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + STOP,
    "tuples in tuples": lambda: b"\x80\x02)" + b"\x85" * 450_000 + STOP,
    "a deep tuple as a key": lambda: b"\x80\x02})" + b"\x85" * 400_000 + b"Ns.",
    "a list that holds itself": lambda: b"\x80\x02]q\x00h\x00a.",
    "a network that holds itself": lambda: b"\x80\x02}q\x00" + text("G_ema") + of_state(b"}", b"h\x00") + b"s.",
    "modules of ten modules each": laughs,
    "an endless loop of names": lambda: b"\x80\x02}" + (text("G") + b"}s") * 60_000 + STOP,
    "one array under many names": shared,
    "an array of 10^12 numbers": lambda: b"\x80\x03}" + text("a") + array(whole(10**6) * 2 + b"\x86") + b"s.",
    "an array of no numbers": lambda: b"\x80\x03}" + text("a") + array(whole(0) + whole(10**15) + b"\x86") + b"s.",
    "an array of objects": lambda: b"\x80\x03}" + text("a") + array(b"K\x01\x85", "O8", b"](Ne") + b"s.",
    "a tensor of 10^12 numbers": lambda: stretched((10**6, 10**6), (0, 0)),
    "a tensor beyond 2^64": lambda: stretched((2**40, 2**40), (1, 1)),
    "a tensor before its storage": lambda: stretched((4,), (-1,)),
    "a text encoded again and again": lambda: b"\x80\x02" + text("x" * 10**7) + b"q\x000"
    + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R") * 300 + STOP,
    "many long texts": lambda: b"\x80\x02" + text("\u20ac" * 5 * 10**6) * 8 + STOP,
}  # fmt: skip


def spoilt(files: tuple[bytes, ...], canary: Path, rng: random.Random) -> tuple[str, bytes]:
    """(what was done, a file of weights that means no good)."""
    if rng.random() < 0.15:
        name = rng.choice(sorted(BOMBS))
        return name, BOMBS[name]()
    spoil, data = rng.choice(SPOILERS), rng.choice(files)
    return spoil.__name__, within(data, lambda pickled: spoil(pickled, canary, rng))


# -- reading them ------------------------------------------------------------------------------------------------------


def read(file: Path) -> str:
    """What becomes of a file: what was imported, or the line that refuses it."""
    try:
        return import_weights([file]).title
    except UserError as error:
        return error.for_command_line


def batch(seed: int, folder: Path) -> int:
    """Read AT_ONCE spoilt files in this process; a file stays where something went wrong. The exit code."""
    failed, rng, canary = 0, random.Random(seed), folder / CANARY
    for i in range(AT_ONCE):
        about, data = spoilt(whole_files(), canary, rng)
        file = folder / f"weights-{i:03d}"
        file.write_bytes(data)
        print(f"pickle {i}")
        signal.alarm(int(LIMIT_S))  # ends the process
        began, problem = time.monotonic(), ""
        try:
            line = read(file)
            print(about, line)
            problem = "more than a line" if "\n" in line else ""
        except Exception:
            traceback.print_exc()
            problem = "an exception"
        signal.alarm(0)
        seconds, megabytes = time.monotonic() - began, memory_of(0)
        if canary.exists():
            problem = "EXECUTED"
            canary.unlink()
        if problem or seconds > LIMIT_S or megabytes > LIMIT_MB:
            print(f"{FAILED} {file.name}: {about}: {problem}, {seconds:.0f} s, {megabytes:.0f} MB")
            failed += 1
            continue
        file.unlink()
    return int(failed > 0)


def fuzz(lab: Lab, case: Case, rng: random.Random) -> None:
    """A hundred spoilt files of weights through the reader of those of others."""
    seed = rng.randrange(1 << 32)
    argv = ["-m", "studies.attacks.pickles", f"batch({seed})"]
    (child,) = case.run(argv, seconds=AT_ONCE * LIMIT_S, program=lambda: batch(seed, case.scratch))
    begun = sum(line.startswith("pickle ") and line[7:].isdecimal() for line in child.text.splitlines())
    case.tried = max(begun, 1)
    case.check_end([child])
    case.failed = child.text.count(f"\n{FAILED} ") or None
    child.seconds /= case.tried
