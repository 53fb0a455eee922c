"""Decoding: what is good comes out upright and RGB, whatever is not is a BadImage that says why."""

import base64
import io
import os
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from unsee.concepts import ImageRef
from unsee.data.images import BadImage, Caps, FileImage, check, decode, digest, leaves

HEIC = (  # 48×48, of libheif's encoder, which comes under a licence of its own
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABoQABAAAAAAAAANUAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAA"
    "AADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkA"
    "AAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAA"
    "AAAoY2xhcAAAADAAAAABAAAAMAAAAAH////wAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAN"
    "1tZGF0AAAA0SgBrxOA9Sm35q90Zo+dyDEBAejYfquCqBlyO9zuMbKDrwgHh7mTOVFSlgKtxXo2e8sZojjn+CQUx8CC0J2Nyxxu5cOIRg9QNeEF"
    "jBG6q3w+J1tigMOWaCSRAk33+nxSI2+onq3TT7ihlhSFhWguNpXVvVj9KzJxuInKzUI/2iM7JxrpNEVKtGhTpF/+2D6tbOskkF5yqm+4r7wF76"
    "pvRC6sXh5fUCLMAGesTm50eYzPJAGCl5bPEtBxIjRfQ7Y70e9Fzvt4169v111PidJHEiN8"
)


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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
def test_allowed_formats_come_out_rgb(format):
    image = decode(encoded(format=format))
    assert (image.mode, image.size) == ("RGB", (24, 16))


def test_a_phones_heic_is_read():
    image = decode(base64.b64decode(HEIC))
    assert (image.mode, image.size) == ("RGB", (48, 48))
    assert len(image.getcolors(2304)) > 100


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4"])
def test_compressed_tiffs_are_read(compression):
    image = Image.effect_noise((24, 16), 60).convert("1" if compression == "group4" else "RGB")
    assert decode(encoded(image, "TIFF", compression=compression)).size == (24, 16)


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
        (b"", "not a JPEG, PNG, WebP, AVIF, HEIC, TIFF, GIF or BMP image"),
        (b"Dear all, this is no image.", "not a JPEG, PNG"),
        (b"\xff\x0a" + bytes(40), "not a JPEG, PNG"),
        (encoded(format="GIF")[:-300], "broken image"),
        (encoded(format="TIFF")[:-300], "broken image"),
        (encoded(format="BMP")[:-300], "broken image"),
        (encoded(format="AVIF")[:-30], "broken image"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "broken image"),
        (encoded()[:-300], "broken image"),
        (encoded(format="JPEG")[:-100], "broken image: image file is truncated"),
        (encoded(format="WEBP")[:-100], "broken image|not a JPEG"),
        (png_that_claims(50_000, 50_000), "more than 64 megapixels"),
        (png_that_claims(9_000, 9_000), "9000×9000 is more than 64 megapixels"),
        (png_that_claims(100, 100), "broken image"),
    ],
    ids=(
        *("empty", "text", "jxl", "cut gif", "cut tiff", "cut bmp", "cut avif", "no heic", "cut png", "cut jpeg"),
        *("cut webp", "bomb", "large", "too few pixels"),
    ),
)
def test_bad_bytes_are_refused_with_the_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_a_file_name_does_not_make_an_image(tmp_path):
    path = tmp_path / "renamed.png"
    path.write_text("<svg/>")
    with pytest.raises(BadImage, match="renamed.png: not a JPEG, .* or BMP image, whatever its name says") as error:
        decode(path)
    assert error.value.path == path


def test_what_a_file_is_called_does_not_reach_the_terminal_raw(tmp_path):
    path = tmp_path / "a\x1b[2J\nerror: all is well.png"
    path.write_text("text")
    with pytest.raises(BadImage) as error:
        decode(path)
    assert "\x1b" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "AVIF"])
def test_animations_are_refused(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    with pytest.raises(BadImage, match="animation"):
        decode(encoded(frames[0], format, save_all=True, append_images=frames[1:]))


def test_of_a_tiff_with_several_pages_it_is_not_known_which_is_meant():
    with pytest.raises(BadImage, match="several pages"):
        decode(encoded(Image.new("L", (8, 8)), "TIFF", save_all=True, append_images=[Image.new("L", (8, 8), 9)]))


@pytest.mark.parametrize("size", [(20_000, 1), (1, 60_000_000), (7, 7_007)])
def test_thin_pictures_are_refused_before_they_are_decoded(size):
    with pytest.raises(BadImage, match="more than 1000 times as long as wide"):
        decode(png_that_claims(*size))


def test_a_banner_is_no_thin_picture():
    assert decode(encoded(Image.new("L", (1000, 20)))).size == (1000, 20)


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
    for name, data in [("b.png", encoded()), ("cut.jpg", encoded(format="JPEG")[:-100]), ("a.png", encoded())]:
        (tmp_path / name).write_bytes(data)
    good, rejected = check({tmp_path / name: name for name in ("b.png", "cut.jpg", "a.png")})
    assert [(image.id, image.size) for image in good] == [("b.png", (24, 16)), ("a.png", (24, 16))]
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


def tiff(*entries, body=b""):
    """A grey TIFF of 8×8 with these entries (tag, type, count, value) in place of its own."""
    size = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    strips = [(273, 4, 1, 8), (278, 3, 1, 8), (279, 4, 1, 64)]
    own = {entry[0]: entry for entry in (*size, *strips)} | {entry[0]: entry for entry in entries}
    listed = b"".join(struct.pack("<HHII", *own[tag]) for tag in sorted(own))
    return b"II*\0" + struct.pack("<IH", 8, len(own)) + listed + bytes(4) + body


def gif(*blocks):
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + b"".join(blocks) + frame * 2 + b";"


@pytest.mark.parametrize(
    "data",
    [
        tiff(*((1000 + k, 1, 30_000_000, 8) for k in range(5_000)), body=bytes(20_000_000)),
        tiff((273, 1, 30_000_000, 8), (279, 1, 30_000_000, 8), body=bytes(20_000_000)),
        tiff((322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 64), (259, 3, 1, 8)),
        tiff((256, 4, 1, 2**32 - 1)),
        gif(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 100_000 + b"\0"),
        b"BM" + struct.pack("<IIIIiiHHII", 0, 0, 54, 40, 8000, 8000, 1, 8, 1, 0) + bytes(5000),
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"tEXt", b"k\0v") * 110_000,
        b"\xff\xd8" + b"\xff\xfe\0\x02" * 110_000,
    ],
    ids=["tags", "strips", "tile", "width", "comment", "runs", "chunks", "comments"],
)
def test_files_that_ask_for_much_are_over_soon(data):
    try:
        assert max(decode(data).size) <= 8
    except BadImage as error:
        assert "reading it takes" not in str(error)


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encoded(Image.new("L", (1600, 1600)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="scans take too long"):
        decode(data[:last] + data[last:-2] * 700 + data[-2:])


def metadata(format, name):
    """Good pixels in a file whose other parts are odd."""
    if name == "rational over zero":
        exif = Image.Exif()
        exif[0x0112], exif[0x829A] = 6, IFDRational(1, 0)
        return encoded(format=format, exif=exif.tobytes())
    given = {
        "garbage exif": {"exif": b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(range(256))},
        "loop in exif": {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"},
        "large profile": {"icc_profile": bytes(3_000_000)},
        "no profile": {"icc_profile": b"no profile"},
    }
    return encoded(format=format, **given[name])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ["rational over zero", "garbage exif", "loop in exif", "large profile", "no profile"])
def test_good_pixels_with_odd_metadata_are_taken(format, name):
    image = decode(metadata(format, name))
    assert image.size == ((16, 24) if name == "rational over zero" else (24, 16))


def spliced(chunk, data=None):
    """A PNG with a chunk behind its header."""
    data = data or encoded()
    return data[:33] + chunk + data[33:]


WRONG = b"\0\0\0\x05tEXtk\0abcABCD"
BOMB = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))


@pytest.mark.parametrize(
    "data",
    [
        spliced(WRONG),
        spliced(BOMB),
        spliced(png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(80_000_000)))),
        spliced(png_chunk(b"iCCP", b"p\0\0junk")),
        spliced(png_chunk(b"iTXt", b"k\0\1\0\0\0junk")),
        spliced(png_chunk(b"tEXt", b"k\0" + bytes(2_000_000))),
        spliced(png_chunk(b"gAMA", b"")),
        encoded()[:-12] + WRONG,
        encoded()[:-12] + WRONG[:9],
        spliced(b"".join(png_chunk(b"zTXt", b"k%d\0\0" % k + zlib.compress(bytes(1_000_000))) for k in range(99))),
        encoded(format="WEBP", exif=b"Exif\0\0" + bytes(400))[:-300],
        encoded(format="JPEG", comment=b"c" * 60_000)[:-2] + b"\xff\xfe\xff\xff\xff\xd9",
    ],
    ids=(
        *("text sum", "text bomb", "profile bomb", "profile junk", "text junk", "large text", "no gamma", "text last"),
        *("cut text", "texts", "cut exif", "cut comment"),
    ),
)
def test_what_is_wrong_beside_the_pixels_does_not_cost_them(data):
    assert decode(data).size == (24, 16)


def test_the_orientation_is_read_where_other_metadata_is_broken():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(spliced(WRONG, encoded(exif=exif))).size == (16, 24)
    assert decode(spliced(BOMB, encoded(exif=exif))).size == (16, 24)


def test_grey_with_transparency_palettes_and_inverted_cmyk_are_right():
    grey = Image.merge("LA", (Image.new("L", (2, 1), 40), Image.frombytes("L", (2, 1), b"\xff\0")))
    assert [decode(encoded(grey)).getpixel((x, 0)) for x in (0, 1)] == [(40, 40, 40), (255, 255, 255)]
    red = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4))
    assert red[0] > 240 and max(red[1:]) < 15
    deep = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 128 * 257, 65535))
    assert [decode(encoded(deep, "TIFF")).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_equal_pixels_have_equal_digests_in_whatever_file():
    image = Image.effect_noise((24, 16), 60).convert("RGB")
    files = [encoded(image), encoded(image, "BMP"), encoded(image, "PNG", compress_level=1), encoded(image, "TIFF")]
    assert len({digest(decode(data)) for data in files}) == 1
    assert digest(Image.new("RGB", (2, 3))) != digest(Image.new("RGB", (3, 2)))


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
