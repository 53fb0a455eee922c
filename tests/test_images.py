"""Decoding: what is good comes out upright and RGB, whatever is not is a BadImage that says why."""

import io
import os
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsee.concepts import ImageRef
from unsee.data.images import BadImage, Caps, FileImage, check, decode, leaves


def encoded(image=None, format="PNG", **options):
    file = io.BytesIO()
    (image or Image.effect_noise((24, 16), 60).convert("RGB")).save(file, format, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_allowed_formats_come_out_rgb(format):
    image = decode(encoded(format=format))
    assert (image.mode, image.size) == ("RGB", (24, 16))


def test_a_file_image_is_an_image_ref_and_loads_its_file(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(encoded(Image.new("RGB", (3, 2), (9, 8, 7))))
    image = FileImage("ada/1.png", path)
    assert isinstance(image, ImageRef)
    assert image.load().getpixel((2, 1)) == (9, 8, 7)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (16, 8), "red")
    image.paste("blue", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to the right: the left half comes to the top
    upright = decode(encoded(image, exif=exif))
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) == (0, 0, 255)
    assert upright.getpixel((4, 13)) == (255, 0, 0)


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    rgb = decode(encoded(image))
    assert rgb.getpixel((0, 0)) == (255, 0, 0)
    assert rgb.getpixel((1, 0)) == (255, 255, 255)


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    rgb = decode(encoded(image, transparency=0))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_sixteen_bit_grey_keeps_its_brightness():
    image = Image.new("I;16", (3, 1))
    for x, level in enumerate((0, 128 * 257, 65535)):
        image.putpixel((x, 0), level)
    rgb = decode(encoded(image))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_grey_and_cmyk_are_converted():
    assert decode(encoded(Image.new("L", (4, 4), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert decode(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")).getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_a_phone_jpeg_is_taken():
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (4, 4), "blue")
    red, green, blue = decode(encoded(first, "MPO", save_all=True, append_images=[second])).getpixel((4, 4))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG, PNG or WebP"),
        (b"Dear all, this is no image.", "not a JPEG, PNG or WebP"),
        (encoded(format="GIF"), "not a JPEG, PNG or WebP"),
        (encoded(format="TIFF"), "not a JPEG, PNG or WebP"),
        (encoded(format="BMP"), "not a JPEG, PNG or WebP"),
        (encoded()[:-300], "broken image"),
        (encoded(format="JPEG")[:-200], "broken image: image file is truncated"),
        (encoded(format="WEBP")[:-100], "broken image|not a JPEG"),
        (png_that_claims(50_000, 50_000), "more than 64 megapixels"),
        (png_that_claims(9_000, 9_000), "9000×9000 is more than 64 megapixels"),
        (png_that_claims(100, 100), "broken image"),
    ],
    ids=["empty", "text", "gif", "tiff", "bmp", "cut png", "cut jpeg", "cut webp", "bomb", "large", "too few pixels"],
)
def test_bad_bytes_are_refused_with_the_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_a_file_name_does_not_make_an_image(tmp_path):
    path = tmp_path / "renamed.png"
    path.write_bytes(encoded(format="GIF"))
    with pytest.raises(BadImage, match="renamed.png: not a JPEG, PNG or WebP image, whatever its name says") as error:
        decode(path)
    assert error.value.path == path


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    with pytest.raises(BadImage, match="animation"):
        decode(encoded(frames[0], format, save_all=True, append_images=frames[1:]))


def test_the_caps_are_inclusive():
    data = encoded(Image.new("RGB", (10, 10)))
    assert decode(data, Caps(bytes=len(data), pixels=100)).size == (10, 10)
    with pytest.raises(BadImage, match="larger than"):
        decode(data, Caps(bytes=len(data) - 1))
    with pytest.raises(BadImage, match="10×10"):
        decode(data, Caps(pixels=99))


def test_a_raised_pixel_cap_does_not_lift_pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(BadImage, match="megapixels"):
        decode(encoded(Image.new("RGB", (9, 9))), Caps(pixels=10**9))


def test_paths_that_hold_no_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in [("none.png", "No such file"), ("", "not a regular file"), ("pipe.png", "not a regular file")]:
        with pytest.raises(BadImage, match=reason):
            decode(tmp_path / name)


def test_check_decodes_in_full_and_keeps_the_order(tmp_path):
    for name, data in [("b.png", encoded()), ("cut.jpg", encoded(format="JPEG")[:-200]), ("a.png", encoded())]:
        (tmp_path / name).write_bytes(data)
    good, rejected = check([tmp_path / "b.png", tmp_path / "cut.jpg", tmp_path / "a.png"])
    assert [path.name for path in good] == ["b.png", "a.png"]
    assert [(bad.path.name, "truncated" in bad.reason) for bad in rejected] == [("cut.jpg", True)]


def test_leaves_follows_links(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").touch()
    (root / "in.png").touch()
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "link.png").symlink_to(root / "in.png")
    assert leaves(root / "out.png", root)
    assert not leaves(root / "link.png", root)


VALID = [encoded(), encoded(format="JPEG", exif=Image.Exif()), encoded(format="WEBP"), encoded(Image.new("P", (9, 9)))]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.integers(0, 4000),
    st.binary(max_size=20),
)
def test_mutated_images_decode_or_are_refused(data, changes, cut, tail):
    mutated = bytearray(data)
    for place, value in changes:
        mutated[place % len(mutated)] = value
    mutated = bytes(mutated[: cut if cut < len(mutated) else None]) + tail
    try:
        image = decode(mutated)
    except BadImage:
        return
    assert image.mode == "RGB"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x20\0\0\0WEBPVP8 "]),
    st.binary(max_size=300),
)
def test_arbitrary_bytes_are_refused(magic, data):
    with pytest.raises(BadImage):
        decode(magic + data)
