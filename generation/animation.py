"""Animations: WebP and GIF by Pillow, MP4 by PyAV where it is installed, a folder of PNGs."""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

from PIL import Image

import disk
from errors import UserError, blaming_user
from generation.webp import write_webp

MIN_FPS, MAX_FPS, MAX_FRAMES = 0.1, 120, 20_000
MAX_SIDE = 4096  # px of a frame: more is shown by few players
MAX_BYTES = 2**31  # of the frames of a format that holds them all
MP4 = {"preset": "veryfast", "crf": "15"}  # of x264
BT709, LIMITED = 1, 1  # as ISO/IEC 23091-2 numbers them: colours, and luma from 16 to 235
PALETTE_FRAMES = 16  # of which the colours of a GIF are chosen


def write_animation(
    frames: Iterable[Image.Image], out: str | os.PathLike[str], fps: float, hold: float = 0
) -> int:
    """Write pictures of one size as an animation that loops for ever; how many there are.

    The suffix of `out` says how: .webp, .gif, .mp4 (which loops where its player does), or none or a slash: a folder of
    000000.png, 000001.png, .... All but a GIF take frames one after the other. fps: frames a second; hold: seconds that
    the last frame stays in addition, which a folder leaves out. UserError without frames, for other suffixes, for sizes
    that differ, and where PyAV is missing; OSError from the disk.
    """
    kind, path = animation_kind(out), Path(out)
    same = _of_one_size(frames)
    first = next(same, None)
    if first is None:
        raise UserError(f"--out {out}: there are no frames to write")
    check_animation(out, 1, first.size, fps, "take smaller pictures")
    frames = itertools.chain([first], same)
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.remove_stale(path.parent)
    if kind == "":
        path.mkdir(exist_ok=True)
        return _write_files(frames, path)
    with disk.replacing(path) as temporary:
        return WRITERS[kind](frames, temporary, fps, hold)


def animation_kind(out: str | os.PathLike[str]) -> str:
    """The suffix of WRITERS that a file has, "" for a folder; UserError for another, and for .mp4 without PyAV."""
    text = os.fspath(out)
    path = Path(text)
    suffix = path.suffix.lower()
    if text.endswith("/") or path.is_dir() or not suffix:
        return ""
    if suffix not in WRITERS:
        raise UserError(
            f"--out {text}: NAME{', NAME'.join(WRITERS)} are animations, DIR/ is a folder of frames"
        )
    if suffix == ".mp4":
        _pyav(path)
    return suffix


def check_animation(
    out: str | os.PathLike[str], n: int, size: tuple[int, int], fps: float, advice: str
) -> None:
    """UserError, before anything is drawn, unless n frames of (width, height) px can be written to `out`.

    advice: how to have fewer or smaller ones.
    """
    kind, (width, height) = animation_kind(out), size
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"--fps {fps:g} must be {MIN_FPS} to {MAX_FPS}")
    if not 1 <= n <= MAX_FRAMES:
        advice = advice if n else "give more --seconds or --fps"
        raise UserError(f"--out {out}: {n:,} frames, and 1 to {MAX_FRAMES:,} are allowed: {advice}")
    if max(size) > MAX_SIDE:
        raise UserError(
            f"--out {out}: frames would have {width:,} x {height:,} px; {MAX_SIDE:,} a side at most: {advice}"
        )
    if kind in HOLD_ALL and 3 * n * width * height > MAX_BYTES:
        raise UserError(
            f"--out {out}: {n:,} frames of {width:,} x {height:,} px do not fit in memory side by side: give "
            f"{Path(out).with_suffix('.webp')}, or {advice}"
        )


def _pyav(path: Path) -> ModuleType:
    """PyAV; UserError where it is missing."""
    try:
        import av
    except ImportError:
        other = path.with_suffix(".webp")
        raise UserError(f"--out {path}: .mp4 needs PyAV: pip install av, or give {other}") from None
    return av


def _of_one_size(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The frames in colour; UserError for one that is not of the size of the first."""
    size = None
    for i, frame in enumerate(frames):
        size = size or frame.size
        if frame.size != size:
            wanted, found = (" x ".join(map(str, s)) for s in (size, frame.size))
            raise UserError(f"frame {i} is of {found} px, the first of {wanted}: frames must be of one size")
        yield frame.convert("RGB")


def _durations(fps: float, unit: int) -> Iterator[int]:
    """Milliseconds of frames, whole numbers of `unit`, whose sum after n is as near to 1000 n / fps as can be."""
    ends = (unit * round(1000 * i / fps / unit) for i in itertools.count())
    return (max(unit, after - before) for before, after in itertools.pairwise(ends))


def _write_webp(frames: Iterable[Image.Image], path: Path, fps: float, hold: float) -> int:
    """The last frame comes once more for the time that it is held, which joins it to its first."""
    durations, n = _durations(fps, unit=1), 0

    def held() -> Iterator[tuple[Image.Image, int]]:
        nonlocal n
        for frame, ms in zip(frames, durations, strict=False):
            n += 1
            yield frame, ms
        if hold:
            yield frame, round(1000 * hold)

    with open(path, "wb") as file, blaming_user():
        write_webp(held(), file)
    return n


def _write_gif(frames: Iterable[Image.Image], path: Path, fps: float, hold: float) -> int:
    """With the same 256 colours for all frames: those of its own each would make a still background flicker."""
    frames = list(frames)
    palette = _common_palette(frames)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    shown = list(itertools.islice(_durations(fps, unit=10), len(frames)))
    shown[-1] += 10 * round(100 * hold)
    first.save(path, format="GIF", save_all=True, append_images=others, duration=shown, loop=0, disposal=1)
    return len(frames)


def _common_palette(frames: Sequence[Image.Image]) -> Image.Image:
    """A picture whose palette is of the colours of frames at equal distances."""
    chosen = frames[:: math.ceil(len(frames) / PALETTE_FRAMES)]
    width, height = frames[0].size
    column = Image.new("RGB", (width, height * len(chosen)))
    for i, frame in enumerate(chosen):
        column.paste(frame, (0, i * height))
    return column.quantize(256, method=Image.Quantize.MEDIANCUT)


def _write_mp4(frames: Iterable[Image.Image], path: Path, fps: float, hold: float) -> int:
    """H.264 in BT.709, which every player shows; odd sizes get a line more."""
    av = _pyav(path)
    n = 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as file:
        try:
            stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=MP4)
        except ValueError:  # PyAV's packages have it, a system's own may not
            raise UserError("this PyAV has no libx264, for .mp4: pip install av, or give NAME.webp") from None
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = stream.codec_context.color_primaries = BT709
        stream.codec_context.color_trc, stream.codec_context.color_range = BT709, LIMITED

        def encode(picture: Image.Image) -> None:
            frame = av.VideoFrame.from_image(picture).reformat(format="yuv420p", dst_colorspace="ITU709")
            file.mux(stream.encode(frame))

        for n, frame in enumerate(frames, 1):
            even = _even(frame)
            if n == 1:
                stream.width, stream.height = even.size
            encode(even)
        for _ in range(round(hold * fps)):
            encode(even)
        file.mux(stream.encode())
    return n


def _even(frame: Image.Image) -> Image.Image:
    """A frame with its last line once more where a side is odd: colours are stored for squares of 2 x 2 px."""
    width, height = (side + side % 2 for side in frame.size)
    if (width, height) == frame.size:
        return frame
    whole = Image.new("RGB", (width, height))
    for left, top in ((1, 1), (1, 0), (0, 1), (0, 0)):  # shifted copies first, the frame itself last
        whole.paste(frame, (left * (width - frame.width), top * (height - frame.height)))
    return whole


def _write_files(frames: Iterable[Image.Image], folder: Path) -> int:
    """000000.png, 000001.png, ...; UserError where the folder holds such files, of which some would stay."""
    if next(folder.glob("[0-9]" * 6 + ".png"), None):
        raise UserError(f"--out {folder} holds frames already: choose another folder, or empty it")
    n = 0
    for n, frame in enumerate(frames, 1):
        with disk.replacing(folder / f"{n - 1:06d}.png", durable=False) as file:
            frame.save(file, format="PNG", compress_level=1)
    return n


WRITERS: dict[str, Callable[[Iterable[Image.Image], Path, float, float], int]] = {
    ".webp": _write_webp,
    ".gif": _write_gif,
    ".mp4": _write_mp4,
}
HOLD_ALL = (".gif",)
