"""The parts of a JPEG, PNG or WebP file: which of them are pixels, and how many there are.

What is not pixels (colour profiles, text, thumbnails) may be broken or huge where the picture itself is good.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PARTS = 100_000  # in one file; libraries spend microseconds on each, and 32 MiB hold eight million empty ones
MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # the next one of a JPEG after a scan's coefficients
EXIF = b"Exif\0\0"
PIXELS = {
    "PNG": (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"),
    "WEBP": (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"),
}
EXIF_OF = {"PNG": b"eXIf", "WEBP": b"EXIF"}
WEBP_EXTRAS = 0x20 | 0x08 | 0x04  # flags of VP8X: a profile, EXIF, XMP


@dataclass(frozen=True)
class Part:
    """One chunk or segment. ``start`` to ``end``: where it lies whole; ``body``: where its data begins."""

    kind: bytes
    start: int
    body: int
    end: int


def parts_of(data: bytes, kind: str) -> Iterator[Part]:
    """The parts in their order, as far as the file can be followed. ``kind``: JPEG, PNG or WEBP."""
    return {"JPEG": _segments, "PNG": _chunks, "WEBP": _riff}[kind](data)


def bare(data: bytes, kind: str) -> tuple[bytes, bytes]:
    """The file with its pixels alone, and its EXIF data; what cannot be followed stays as it is."""
    parts = list(parts_of(data, kind))
    if kind == "JPEG":
        kept = [p for p in parts if _is_picture(p.kind)]
        exif = next((p for p in parts if p.kind == b"\xe1" and data.startswith(EXIF, p.body)), None)
        return b"\xff\xd8" + _joined(data, kept), data[exif.body : exif.end] if exif else b""
    kept = [p for p in parts if p.kind in PIXELS[kind]]
    exif = next((p for p in parts if p.kind == EXIF_OF[kind]), None)
    found = data[exif.body : exif.end] if exif else b""
    if kind == "PNG":
        return data[:8] + _joined(data, kept), found[:-4]
    return _webp(data, kept), found


def _segments(data: bytes) -> Iterator[Part]:
    """Those of a JPEG, by their marker's second byte; a scan ends where the next segment begins."""
    at = 2
    while found := MARKER.match(data, at):
        kind, body = data[found.end() - 1 : found.end()], found.end()
        if kind == b"\xd9":
            yield Part(kind, at, body, body)
            return
        if body + 2 > len(data):
            return
        end = body + int.from_bytes(data[body : body + 2], "big")
        if kind == b"\xda":
            after = MARKER.search(data, end)
            end = after.start() if after else len(data)
        yield Part(kind, at, body + 2, end)
        at = end


def _is_picture(marker: bytes) -> bool:
    """Not a comment, nor data of a program: of those only JFIF's and Adobe's say how colours are stored."""
    return marker in (b"\xe0", b"\xee") or not (b"\xe0" <= marker <= b"\xef" or marker == b"\xfe")


def _chunks(data: bytes) -> Iterator[Part]:
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield Part(kind, at, at + 8, min(at + 12 + size, len(data)))
        at += 12 + size
        if kind == b"IEND":
            return


def _riff(data: bytes) -> Iterator[Part]:
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        yield Part(kind, at, at + 8, min(at + 8 + size, len(data)))
        at += 8 + size + size % 2


def _webp(data: bytes, kept: list[Part]) -> bytes:
    body = b""
    for part in kept:
        chunk = bytearray(data[part.start : part.end])
        if part.kind == b"VP8X" and len(chunk) > 8:
            chunk[8] &= ~WEBP_EXTRAS & 0xFF
        body += bytes(chunk) + b"\0" * (len(chunk) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _joined(data: bytes, parts: list[Part]) -> bytes:
    return b"".join(data[part.start : part.end] for part in parts)
