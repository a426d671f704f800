"""What the names of files and folders tell: images, lists of labels, what is passed over, and where links lead."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from images.arrays import SUFFIX
from images.labels import is_side

MAX_SIDE_BYTES = 2**16  # of a label beside its image; what is larger is something else
TEXTS = re.compile(r"list_(attr|eval_partition)\w*\.(txt|csv)", re.IGNORECASE)  # CelebA's
TABLES = re.compile(r"dataset\.json|metadata\.(csv|jsonl)", re.IGNORECASE)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
# Folders that systems put between those of people: copies, thumbnails, what was deleted.
JUNK = {
    *(
        "__macosx",
        "@eadir",
        "@__thumb",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
    ),
    *("system volume information", "lost+found", "_thumb", "_thumbs", "__pycache__"),
}
# Pictures that are not read here, and what to do with them.
_CONVERT = "save them as JPEG or PNG, e.g. with `magick mogrify -format png`"
UNREAD = {
    **dict.fromkeys(
        (".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".tga", ".psd", ".svg", ".exr"), _CONVERT
    ),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"), "develop the raw files to JPEG or PNG"
    ),
    **dict.fromkeys((".dcm", ".nii", ".npz", ".h5", ".mat"), "save the arrays as .npy or 16-bit PNG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "take single frames out, e.g. with ffmpeg"),
    **dict.fromkeys((".parquet", ".arrow", ".tfrecord", ".tfrecords"), "take the pictures out into a folder"),
}


def is_junk(folder: str) -> bool:
    """Whether a folder is hidden, or one that a system puts between those of people."""
    return folder.startswith(".") or folder.lower() in JUNK


def is_text(name: str) -> bool:
    """Whether this is the name of a label list, or of a label beside an image."""
    base = PurePosixPath(name).name
    return TEXTS.fullmatch(base) is not None or TABLES.fullmatch(base) is not None or is_side(name)


def is_archive(name: str) -> bool:
    """Whether this is the name of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def stray_arrays(names: Sequence[str]) -> set[str]:
    """The .npy among these images, where other picture files are no fewer: features, latents, masks of the others."""
    arrays = {name for name in names if name.lower().endswith(SUFFIX)}
    return arrays if 2 * len(arrays) <= len(names) else set()


def leads_inside(name: str, target: str) -> bool:
    """Whether a link of this name leads to a place within its archive."""
    if target.startswith("/") or re.match("[A-Za-z]:", target) or not target:
        return False
    depth = name.count("/")
    for part in target.replace("\\", "/").split("/"):
        depth += (part not in (".", "..", "")) - (part == "..")
        if depth < 0:
            return False
    return True


def set_stem(base: str) -> str:
    """The name of a folder or archive without what says its kind: letters, digits, dots and hyphens; may be empty."""
    suffix = next((suffix for suffix in (*ARCHIVE_SUFFIXES, ".npy") if base.lower().endswith(suffix)), "")
    plain = base[: len(base) - len(suffix)].encode(errors="ignore").decode()
    return re.sub(r"[^\w.-]+", "_", plain).strip("._-")
