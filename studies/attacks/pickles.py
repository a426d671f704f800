"""Weights of others, made to do harm: pickles with calls in them, with other operations, with bombs."""

import io
import math
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


def older(body: bytes, listed: bytes = b"]") -> bytes:
    """A file in torch's older form: operations of its content, and of its list of storages."""
    before = (pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return b"".join(before) + b"\x80\x02" + body + STOP + b"\x80\x02" + listed + STOP


def older_tensor() -> bytes:
    """Operations that make a tensor of 64 numbers, the first storage of torch's older form."""
    storage = MARK + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x40tQ"
    sizes = b"K\x04K\x04K\x04\x87K\x10K\x04K\x01\x87"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + MARK + storage + b"K\x00" + sizes + b"\x89NtR"


def alike(n: int) -> list[int]:
    """Whole numbers that all have the hash 0."""
    return [k * (2**61 - 1) for k in range(1, n + 1)]


def shared_parameters(branches: int, n: int) -> bytes:
    """Modules in modules, four deep, all with the same n parameters."""
    held = array(b"K\x01\x85", data=b"C\x08" + bytes(8)) + b"q\x80"
    names = b"".join(text(f"p{i}") + b"h\x80" for i in range(n))
    data = held + b"0}" + MARK + names + b"uq\x810" + of_state(b"h\x81", b"}") + b"q\x00"
    for i in range(4):
        parts = b"".join(text(f"part{k}") + b"h" + bytes([i]) for k in range(branches))
        data += b"0" + of_state(b"h\x81", b"}" + MARK + parts + b"u") + b"q" + bytes([i + 1])
    return b"\x80\x02}" + data + b"0" + text("G_ema") + b"h\x04s."


def shared_variables() -> bytes:
    """A Network of TensorFlow's of 32 components, which are all the same, of 32 again, with the same variables."""
    made, rest = b"cdnnlib.tflib.network\nNetwork\n)\x81}" + MARK + text("variables") + b"h\x00", b"ub"
    pairs = b"".join(text(f"{k}") + b"h\x80\x86" for k in range(10_000))
    data = (
        array(b"K\x01\x85", data=b"C\x08" + bytes(8))
        + b"q\x800]("
        + pairs
        + b"eq\x000"
        + made
        + rest
        + b"q\x01"
    )
    for i in (1, 2):
        parts = b"".join(text(f"{k}") + b"h" + bytes([i]) for k in range(32))
        data += b"0" + made + text("components") + b"}" + MARK + parts + b"u" + rest + b"q" + bytes([i + 1])
    return b"\x80\x02" + data + STOP


def wide(n: int) -> bytes:
    """A G of n channels by the axes of some weights, which have no others; its mean style is missing."""
    weights = {name: x.numpy() for name, x in small_weights().items() if name != "mapping.w_avg"}
    for size in (4, 8):
        weights[f"synthesis.b{size}.conv1.weight"] = torch.zeros(n, 1, 1, 1).numpy()
    return pickle.dumps({"G_ema": weights}, 2)


def tensorflow(extra: bytes, settings: bytes = b"}") -> bytes:
    """The beginning of a StyleGAN, with pairs of names and arrays more, and settings."""
    pairs = {
        "4x4/Const/const": (1, 4, 4, 4),
        "4x4/Conv/weight": (3, 3, 4, 4),
        "8x8/Conv1/weight": (3, 3, 4, 4),
    }
    made = b"".join(text(name) + zeros(shape) + b"\x86" for name, shape in pairs.items())
    head = b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81}" + MARK
    return head + text("variables") + b"](" + made + extra + b"e" + text("static_kwargs") + settings + b"ub."


def zeros(shape: tuple[int, ...]) -> bytes:
    """Operations that make an array of zeros."""
    n = 4 * math.prod(shape)
    data = b"B" + struct.pack("<L", n) + bytes(n)
    return array(MARK + b"".join(map(whole, shape)) + b"t", "f4", data)


def nested_setting() -> bytes:
    """A module whose setting is a list of ten lists, of ten lists, thirty deep."""
    laughing = b"]q\x00" + b"".join(
        b"0](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(30)
    )
    names = (
        "synthesis.b4.const",
        "synthesis.b4.conv1.weight",
        "synthesis.b8.conv1.weight",
        "mapping.fc0.weight",
    )
    inner = b"}" + MARK + b"".join(text(name.rpartition(".")[2]) + zeros((4, 4)) for name in names) + b"u"
    state = (
        b"}" + MARK + text("_parameters") + inner + text("_modules") + b"}" + text("bias_gain") + b"h\x1eu"
    )
    made = call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}" + text("state") + state + b"s")
    module = made + b"q\x200"
    for parts in (b"fc0", b"conv1"):
        module += (
            of_state(b"}", b"}" + text(parts.decode()) + b"h\x20s")
            + b"q"
            + bytes([0x21 + (parts != b"fc0")])
            + b"0"
        )
    block = of_state(b"h\x30", b"}" + text("conv1") + b"h\x20s") + b"q\x310"
    synthesis = of_state(b"}", b"}" + MARK + text("b4") + b"h\x31" + text("b8") + b"h\x31u") + b"q\x320"
    G = of_state(b"}", b"}" + MARK + text("mapping") + b"h\x21" + text("synthesis") + b"h\x32u")
    return (
        b"\x80\x03"
        + laughing
        + b"0"
        + inner
        + b"q\x300"
        + module
        + block
        + synthesis
        + b"}"
        + text("G_ema")
        + G
        + b"s."
    )


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
    "a deep tuple in the list of storages": lambda: older(older_tensor(), b"](" + b")" + b"\x85" * 400_000 + b"e"),
    "a storage that is not listed": lambda: older(b"}" + text("synthesis.b4.const") + older_tensor() + b"s"),
    "keys that hash alike": lambda: b"\x80\x02}(" + b"".join(b"L%dL\nN" % k for k in alike(20_000)) + b"u.",
    "a memo whose numbers hash alike": lambda: b"N" + b"".join(b"p%d\n" % k for k in alike(20_000)) + STOP,
    "keys of tuples": lambda: pickle.dumps({("x" * 200, "y" * 200): 1}, 2),
    "modules that share parameters": lambda: shared_parameters(7, 2000),
    "components that share variables": shared_variables,
    "an array without content": lambda: b"\x80\x03}" + text("synthesis.b4.const")
    + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87Rs.",
    "a text in many arrays": lambda: b"\x80\x02" + text("x" * 2**23) + b"q\x630"
    + array(whole(2**20) + b"\x85", data=b"h\x63") * 30 + STOP,
    "wide layers in a small file": lambda: wide(20_000),
    "a filter that is a number": lambda: tensorflow(b"", b"}" + text("blur_filter") + b"K\x05s"),
    "a level of detail without numbers": lambda: tensorflow(text("lod") + zeros((0,)) + b"\x86"),
    "a setting of lists in lists": nested_setting,
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
