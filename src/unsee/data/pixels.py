"""From the bytes of one image file to its pixels: upright, RGB, within bounds, or the reason why not."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import PIL.Image
from PIL.Image import Transpose

from unsee.data.bare import PARTS, bare, parts_of
from unsee.errors import UnseeError
from unsee.untrusted import shown

READ = "JPEG, PNG, WebP, AVIF, HEIC, TIFF, GIF or BMP"
HERE = ("JPEG", "PNG", "WEBP")  # decoded in this process; every other one in one of its own (unsee.data.apart)
MEGA = 1_000_000
EXIF = 64 * 2**10  # bytes that are looked at for the orientation, which stands at the beginning
ORIENTATION = 0x0112
LARGE = 16 * MEGA  # pixels, from which images are decoded one at a time: 64 megapixels take a gigabyte meanwhile
_ALONE = Lock()
SCANNED = 1_500 * MEGA  # pixels times scans of a JPEG, each of which goes over all pixels; usual are up to 12 scans
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Caps:
    """The largest image that is decoded: bytes of the file, pixels of the picture, its longer side over its shorter."""

    bytes: int = 32 * 2**20
    pixels: int = 64 * MEGA
    ratio: float = 1000  # what a model can be shown is less, and its own check says so


CAPS = Caps()


class BadImage(UnseeError):
    """An image that cannot, or must not, be decoded."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(f"{shown(path) if path else 'image bytes'}: {reason}")
        self.path = path
        self.reason = reason


def kind_of(head: bytes) -> str:
    """The format that the first bytes of a file tell; empty: none that is read."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"BM") and len(head) > 14 and head[14] in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[4:8] != b"ftyp":
        return ""
    if head[8:12] in (b"avif", b"avis") or (head[8:12] in (b"mif1", b"msf1") and b"avif" in head[16:64]):
        return "AVIF"
    return "HEIF" if head[8:12] in BRANDS else ""


def pixels(data: bytes, kind: str, caps: Caps) -> PIL.Image.Image:
    """The whole image. ``kind``: its format. Every failure is a BadImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow tells of odd metadata, in the words of the file
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            return _lenient(data, kind, caps)
    except BadImage:
        raise
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise BadImage(None, f"more than {caps.pixels / MEGA:g} megapixels") from error
    except PIL.UnidentifiedImageError as error:
        raise BadImage(None, f"broken image: it begins as {kind} does and goes on otherwise") from error
    except (
        Exception
    ) as error:  # on broken bytes Pillow raises OSError, SyntaxError, struct.error, zlib.error, IndexError …
        raise BadImage(None, f"broken image: {shown(error)[:200] or type(error).__name__}") from error


def _lenient(data: bytes, kind: str, caps: Caps) -> PIL.Image.Image:
    """Where something is wrong, once more without all that is not pixels."""
    if kind in HERE and sum(1 for _ in islice(parts_of(data, kind), PARTS + 1)) > PARTS:
        raise BadImage(None, f"a file of more than {PARTS:,} parts; save it anew")
    try:
        return _decoded(data, kind, caps)
    except BadImage:
        raise
    except Exception as error:
        plain, exif = bare(data, kind) if kind in HERE else (data, b"")
        try:
            return _decoded(plain, kind, caps, exif)
        except Exception:
            raise error from None


def _decoded(data: bytes, kind: str, caps: Caps, exif: bytes = b"") -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(data), formats=[kind]) as image:
        _refuse_size(*image.size, caps)  # before anything is unpacked
        _refuse_kind(image, data, kind)
        with _ALONE if image.width * image.height > LARGE else nullcontext():
            image.load()
            if exif:
                image.info["exif"] = exif
            return upright(image)


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """A picture that somebody opened: upright, RGB, on white where it was transparent."""
    return _rgb(_turned(image))


def _refuse_size(width: int, height: int, caps: Caps) -> None:
    if width * height > caps.pixels:
        raise BadImage(None, f"{width}×{height} is more than {caps.pixels / MEGA:g} megapixels; make it smaller")
    if max(width, height) > caps.ratio * min(width, height):
        raise BadImage(None, f"{width}×{height} is more than {caps.ratio:g} times as long as wide; cut it")


def _refuse_kind(image: PIL.Image.Image, data: bytes, kind: str) -> None:
    # Phones store a depth or brightness map as a second frame of a JPEG (MPO): its first frame is the photograph.
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF"):
        what = "a file of several pages; save one of them" if kind == "TIFF" else "an animation; save one frame of it"
        raise BadImage(None, what)
    if kind == "BMP" and image.info.get("compression") not in (0, 3):  # Pillow unpacks run lengths in Python
        raise BadImage(None, "a packed BMP; save it as PNG")
    if kind == "JPEG":
        scans = Counter(part.kind for part in parts_of(data, kind))[b"\xda"]
        if scans * image.width * image.height > SCANNED:
            raise BadImage(None, f"{image.width}×{image.height} in {scans} scans take too long; save it anew")


def _turned(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turned as its EXIF or XMP data says, where that can be read."""
    info: dict[Any, Any] = image.info
    if len(exif := info.get("exif") or b"") > EXIF:
        info["exif"] = exif[:EXIF]
    if len(info.get("Raw profile type exif") or "") > 3 * EXIF:  # two letters a byte, and line ends
        del info["Raw profile type exif"]
    try:
        number: Any = image.getexif().get(ORIENTATION)
    except Exception:  # as many kinds of errors as with pixels; the picture is good all the same
        number = None
    turn = TURNS.get(number) if isinstance(number, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel: convert() alone would clip all but the darkest 1/256 to white
        image = image.point(lambda level: level * (1 / 257)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")
