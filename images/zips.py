"""What is to be known of a .zip's members beside what zipfile says of them."""

import zipfile

# Methods that Python does not unpack, by number.
METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    93: "zstd",
    95: "xz",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
}
UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
UTF8_NAME = 0x800  # a member's flag: its name is in UTF-8, as most writers that forget the flag have it, too


def packing_of(info: zipfile.ZipInfo) -> str | None:
    """How a member is packed that cannot be unpacked, None for all others."""
    if info.compress_type in UNPACKED:
        return None
    return METHODS.get(info.compress_type, f"method {info.compress_type}")


def zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name as it was written: in UTF-8 also without the flag that says so, where its bytes are."""
    if info.flag_bits & UTF8_NAME:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename
