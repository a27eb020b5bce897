"""Decoding of honest and hostile bytes."""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from splitveil.data import images
from splitveil.data.gathering import gather_pictures
from splitveil.data.images import decode
from splitveil.data.reading import PLAIN, Reading
from splitveil.errors import InputError

GREY = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return io.BytesIO(buffer.getvalue())


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises more pixels than it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def pack(contents: list[bytes]) -> list[images.Picture]:
    return [(f"'{index}.png'", partial(io.BytesIO, content)) for index, content in enumerate(contents)]


def stack(pictures: list[images.Picture], total: int, reading: Reading = PLAIN) -> Tensor:
    found = gather_pictures(pictures, total, reading).images
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_grey_and_colour_come_back_as_they_were_saved(form: str) -> None:
    np.testing.assert_array_equal(decode(saved(Image.fromarray(GREY), form), "x"), GREY)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(COLOUR), form), "x"), COLOUR)


def test_jpeg_comes_back_nearly() -> None:
    smooth = np.broadcast_to(np.linspace(60, 180, 16, dtype=np.uint8), (16, 16))
    pixels = decode(saved(Image.fromarray(np.ascontiguousarray(smooth)), "JPEG", quality=95), "x")
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = np.array([[0, 128, 257, 400, 32768, 65280, 65535]], dtype=np.uint16)
    pixels = decode(saved(Image.fromarray(deep)), "x")
    np.testing.assert_array_equal(pixels, np.rint(deep / 257).astype(np.uint8))


def test_other_modes_become_grey_or_colour() -> None:
    alpha = np.full((5, 6, 1), 100, dtype=np.uint8)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(np.concatenate([COLOUR, alpha], -1))), "x"), COLOUR)
    np.testing.assert_array_equal(
        decode(saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha[..., 0])])), "x"), GREY
    )
    np.testing.assert_array_equal(decode(saved(Image.fromarray(GREY > 99)), "x"), (GREY > 99) * np.uint8(255))
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    expected = np.array([[[10, 20, 30], [40, 50, 60]]], dtype=np.uint8)
    np.testing.assert_array_equal(decode(saved(palette), "x"), expected)
    np.testing.assert_array_equal(decode(saved(palette, transparency=b"\x80\x40"), "x"), expected)
    inks = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(decode(saved(inks, "TIFF"), "x"), np.asarray(inks.convert("RGB")))


def test_the_orientation_mark_of_a_camera_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn clockwise by a quarter to see it upright
    np.testing.assert_array_equal(decode(saved(Image.fromarray(GREY), exif=exif), "x"), np.rot90(GREY, -1))


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "do not decode"),
        (b"GIF89a", "do not decode"),
        (b"not a picture at all", "do not decode as any of JPEG, PNG"),
        (saved(Image.fromarray(COLOUR)).getvalue()[:60], "do not decode"),
        (saved(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG").getvalue()[:400], "do not decode"),
        (png_header(6, 5), "do not decode"),
        (png_header(4097, 2), "got 4097x2"),
        (png_header(9_500, 9_500), "at most 4096 pixels"),  # beyond the first limit of Pillow, a warning
        (png_header(60_000, 60_000), "at most 4096 pixels"),  # beyond the second, an error
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "do not decode"),
        (saved(Image.fromarray(GREY), "PCX").getvalue(), "do not decode"),  # a format that is not on the list
        (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF").getvalue(), "floats of unknown range"),
        (saved(Image.fromarray(GREY.astype(np.int32) * 70_000), "TIFF").getvalue(), "at most 16 bits"),
    ],
)
def test_hostile_bytes_are_refused_by_name(content: bytes, fact: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(io.BytesIO(content), "'bad.png'")
    assert fact in str(caught.value)
    assert "'bad.png'" in str(caught.value)


def test_the_first_picture_of_a_stereo_camera_is_read() -> None:
    first, second = (Image.new("L", (6, 5), level) for level in (200, 20))
    pixels = decode(saved(first, "MPO", save_all=True, append_images=[second]), "x")
    assert pixels.shape == (5, 6)
    assert abs(int(pixels.mean()) - 200) <= 2


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_the_limit_does_not_rest_on_warnings_being_errors() -> None:
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(InputError, match="at most 4096 pixels"),
    ):
        decode(io.BytesIO(png_header(9_500, 9_500)), "x")


def test_grey_stays_one_channel_and_one_colour_picture_makes_all_three() -> None:
    grey = [saved(Image.fromarray(GREY + index)).getvalue() for index in range(3)]
    colour = saved(Image.fromarray(COLOUR)).getvalue()
    assert stack(pack(grey), 3).shape == (3, 1, 5, 6)
    mixed = stack(pack([*grey, colour, grey[0]]), 5)
    assert mixed.shape == (5, 3, 5, 6)
    for index, expected in enumerate([GREY, GREY + 1, GREY + 2, None, GREY]):
        wanted = COLOUR.transpose(2, 0, 1) if expected is None else np.broadcast_to(expected, (3, 5, 6))
        np.testing.assert_array_equal(mixed[index].numpy(), wanted)


def test_large_pictures_on_several_threads_keep_their_order() -> None:
    contents = [saved(Image.new("L", (128, 128), index % 251)).getvalue() for index in range(600)]
    seen: list[tuple[int, int]] = []
    stacked = stack(pack(contents), 600, Reading(lambda done, total: seen.append((done, total))))
    assert stacked[:, 0, 7, 7].tolist() == [index % 251 for index in range(600)]
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_two_sizes_are_named_with_the_first_two_files() -> None:
    contents = [saved(Image.new("L", size)).getvalue() for size in ((6, 5), (6, 5), (7, 9), (2, 2))]
    with pytest.raises(InputError, match=r"6x5 in '0.png' and 7x9 in '2.png': resize"):
        stack(pack(contents), 4)


def test_more_than_the_memory_allows_is_refused_before_it_is_taken() -> None:
    content = saved(Image.new("RGB", (4096, 64))).getvalue()
    with pytest.raises(InputError, match=r"fit into the \d+ GiB of memory .* or \d+.\d GiB: stream them"):
        stack(pack([content]), 10_000_000)


def test_no_picture_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one picture"):
        stack([], 0)
