"""Pictures arrive as a person sees them: each is written by other means than it is read, and compared with its look."""

import re
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from headtohead.options import ConfigError
from headtohead.training.decoding import read_picture, readable_suffixes

# What a person sees: a grey ramp of 16 columns.
RAMP = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (4, 1))
RAMP16 = RAMP.astype(np.uint16) * 257


def seen(path, mode="L"):
    return np.asarray(read_picture(str(path), mode, 16, 180))


def saved(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        (RAMP16, "16.png"),
        (RAMP16, "16.tiff"),
        (RAMP16, "16.pgm"),
        (RAMP16, "16.jp2"),
        (RAMP16.astype(np.int32), "32.tiff"),
        (RAMP.astype(np.int32), "bytes_in_32.tiff"),
        (RAMP16.astype(np.int32) * 30_000, "31.tiff"),
        (RAMP16.astype(np.int32) - 32768, "signed.tiff"),
        ((RAMP / 255).astype(np.float32), "share.tiff"),
        (RAMP.astype(np.float32), "float.tiff"),
        (RAMP16.astype(np.float32), "float16.tiff"),
        (RAMP.astype(np.float32) * 1e6 - 1e7, "any_float.tiff"),
    ],
)
def test_more_than_eight_bits_are_scaled_and_not_clipped(tmp_path, numbers, name):
    path = saved(tmp_path, Image.fromarray(numbers), name)
    np.testing.assert_array_equal(seen(path), RAMP)
    np.testing.assert_array_equal(seen(path, "RGB"), np.repeat(RAMP[..., None], 3, 2))


def tiff(numbers, bits, photometric, order="<"):
    """A TIFF of one strip, written by hand: Pillow writes neither 12 bits, nor big-endian, nor zero as white."""
    height, width = numbers.shape
    if bits == 12:
        text = "".join(f"{number:012b}" for number in numbers.flatten())
        data = int(text, 2).to_bytes(len(text) // 8, "big")
    else:
        data = numbers.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    code = "little" if order == "<" else "big"
    pack = lambda value, size: value.to_bytes(size, code)  # noqa: E731
    entries = b"".join(pack(tag, 2) + pack(4, 2) + pack(1, 4) + pack(value, 4) for tag, value in tags.items())
    head = (b"II" if order == "<" else b"MM") + pack(42, 2) + pack(8 + len(data), 4)
    return head + data + pack(len(tags), 2) + entries + bytes(4)


@pytest.mark.parametrize(("bits", "photometric", "order"), [(12, 1, "<"), (16, 1, "<"), (16, 0, "<"), (16, 1, ">")])
def test_a_tiff_has_the_range_and_the_ground_that_it_states(tmp_path, bits, photometric, order):
    numbers = (RAMP.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    (tmp_path / "x.tif").write_bytes(tiff(numbers, bits, photometric, order))
    np.testing.assert_array_equal(seen(tmp_path / "x.tif"), RAMP if photometric else 255 - RAMP)


def test_numbers_that_are_none_are_black(tmp_path):
    numbers = (RAMP / 255).astype(np.float32)
    numbers[:, 3], numbers[:, 4], numbers[:, 5] = np.nan, np.inf, -np.inf
    looks = RAMP.copy()
    looks[:, 3:6] = 0
    np.testing.assert_array_equal(seen(saved(tmp_path, Image.fromarray(numbers), "x.tiff")), looks)


# A black disc in the middle, and the share to which it covers each pixel.
DISC = np.hypot(*np.mgrid[-8:8, -8:8]) < 5
COVER = np.where(DISC, 255, 0).astype(np.uint8)


def shape(colour):
    image = Image.new("RGBA", (16, 16), (*colour, 0))
    image.putalpha(Image.fromarray(COVER))
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "ico", "jp2", "tga"])
def test_a_black_shape_on_nothing_is_black_on_white(tmp_path, suffix):
    path = saved(tmp_path, shape((0, 0, 0)), f"x.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(seen(path), np.where(DISC, 0, 255))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_white(tmp_path, suffix):
    image = Image.fromarray(np.where(DISC, 1, 0).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 20, 20, 20])
    path = saved(tmp_path, image, f"x.{suffix}", transparency=0)
    np.testing.assert_array_equal(seen(path), np.where(DISC, 20, 255))


@pytest.mark.parametrize(("mode", "transparency"), [("L", 0), ("RGB", (0, 0, 0)), ("I;16", 0), ("LA", None)])
def test_transparency_of_every_mode_is_white(tmp_path, mode, transparency):
    drawn = np.where(DISC, 128, 0).astype(np.uint8)
    image = Image.fromarray(drawn.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(drawn).convert(mode)
    if mode == "LA":
        image.putalpha(Image.fromarray(COVER))
    path = saved(tmp_path, image, "x.png", **({"transparency": transparency} if transparency is not None else {}))
    with Image.open(path) as file:
        assert file.mode == mode and file.has_transparency_data
    np.testing.assert_array_equal(seen(path), np.where(DISC, 128, 255))


def test_half_of_a_colour_is_half_white(tmp_path):
    path = saved(tmp_path, Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "x.png")
    np.testing.assert_allclose(seen(path, "RGB")[0, 0], [255, 127, 127], atol=1)


def test_a_white_shape_does_not_vanish(tmp_path):
    np.testing.assert_array_equal(seen(saved(tmp_path, shape((255, 255, 255)), "x.png")), np.where(DISC, 255, 0))


def test_an_alpha_that_nobody_set_hides_nothing(tmp_path):
    image = Image.fromarray(RAMP).convert("RGBA")
    image.putalpha(0)
    np.testing.assert_array_equal(seen(saved(tmp_path, image, "x.tga")), RAMP)


def test_opaque_pictures_keep_their_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    paths = [saved(tmp_path, image.convert(mode), f"{mode}.png") for mode in ("RGB", "RGBA")]
    paths += [saved(tmp_path, image, f"x.{suffix}") for suffix in ("bmp", "ppm", "tiff", "qoi", "tga", "pcx")]
    for path in paths:
        np.testing.assert_array_equal(seen(path, "RGB"), pixels)


# Orientation and the steps by which a camera that was held so stored the upright picture.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "16.png", "16.tiff"])
def test_a_picture_stands_upright(tmp_path, orientation, suffix):
    upright = np.zeros((16, 32), dtype=np.uint8)
    upright[:8, :24] = 200
    stored = np.ascontiguousarray(STORED[orientation](upright))
    image = Image.fromarray(stored.astype(np.uint16) * 257 if "16" in suffix else stored)
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path, image, f"x.{suffix}", exif=exif)
    assert seen(path).shape == (16, 32)
    np.testing.assert_allclose(seen(path), upright, atol=12)


def test_damaged_metadata_do_not_hide_a_picture(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xffnonsense")
    np.testing.assert_array_equal(seen(path), RAMP)


def test_cmyk_has_its_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    for name in ("x.jpg", "x.tiff"):
        np.testing.assert_allclose(seen(saved(tmp_path, red, name), "RGB")[8, 8], [255, 0, 0], atol=3)


def test_lab_has_its_colours(tmp_path):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    rgb = Image.new("RGB", (4, 4), (200, 100, 50))
    lab = ImageCms.applyTransform(rgb, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    np.testing.assert_allclose(seen(saved(tmp_path, lab, "x.tiff"), "RGB")[0, 0], [200, 100, 50], atol=3)


def test_black_and_white_are_black_and_white(tmp_path):
    image = Image.fromarray(np.where(DISC, 0, 255).astype(np.uint8)).convert("1")
    for suffix in ("png", "tiff", "bmp", "pbm", "gif"):
        np.testing.assert_array_equal(seen(saved(tmp_path, image, f"x.{suffix}")), np.where(DISC, 0, 255))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_an_animation_is_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path, frames[0], f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert seen(path, "RGB")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp", "jp2", "ppm", "tga", "pcx", "avif"])
def test_a_damaged_file_is_named_whatever_its_damage(tmp_path, suffix):
    """What can be read of it is read, and all else is one error that names the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels), f"x.{suffix}")
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    cut = [whole[: len(whole) // 2], whole[:10], b""]
    for content in [*cut, *(bytes(damaged(whole, random)) for _ in range(60))]:
        path.write_bytes(content)
        message = ""
        try:
            with warnings.catch_warnings(action="error"):
                assert seen(path, "RGB").ndim == 3
        except (OSError, ConfigError) as error:
            message = str(error)
        assert re.fullmatch(rf"(cannot read {path}: |dataset\.max_megapixels=180: ).*|", message)
        refused += message.startswith("cannot")
    assert refused >= len(cut)


def damaged(content, random):
    changed = bytearray(content)
    for place in random.integers(0, min(len(content), 200), 3):
        changed[place] = random.integers(256)
    return changed


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "x.jpg").touch()
    with pytest.raises(OSError, match=r"x\.jpg: it is empty$"):
        seen(tmp_path / "x.jpg")


def test_the_size_of_pictures_has_a_limit_of_its_own(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    path = saved(tmp_path, Image.new("1", (15_000, 15_000)), "x.png")
    with pytest.raises(ConfigError, match=r"^dataset\.max_megapixels=180: .*x\.png has 225 megapixels$"):
        seen(path)
    assert read_picture(str(path), "L", 32, 225).size == (15_000, 15_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_files_that_pillow_only_names_are_no_pictures():
    assert {".png", ".jpg", ".jpeg", ".gif", ".tif", ".webp", ".bmp", ".avif"} <= readable_suffixes()
    assert not {".mpg", ".h5", ".grib", ".pdf", ".txt", ""} & readable_suffixes()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_large_photographs_are_decoded_at_a_fraction_of_their_size(tmp_path, mode):
    """The result is that of the whole photograph but for a level or two; an EXIF orientation holds."""
    y, x = np.mgrid[0:1200, 0:1600]
    smooth = np.stack([127 + 120 * np.sin(x / 90), 127 + 120 * np.sin(y / 70), (x + y) / 11], -1)
    noisy = np.clip(smooth + np.random.default_rng(0).normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    whole = Image.fromarray(noisy)
    path = saved(tmp_path, whole, "large.jpg", quality=95, exif=exif, progressive=True)
    read = read_picture(str(path), mode, 64, 180)
    assert read.size == (300, 400)
    expected = whole.transpose(Image.Transpose.ROTATE_270).convert(mode).resize((64, 64), Image.Resampling.BILINEAR)
    distance = np.abs(np.asarray(read.resize((64, 64), Image.Resampling.BILINEAR)).astype(int) - np.asarray(expected))
    assert distance.mean() < 1 and distance.max() <= 4
    small = saved(tmp_path, whole.resize((1000, 1000)), "small.jpg")
    np.testing.assert_array_equal(np.asarray(read_picture(str(small), "RGB", 64, 180)), np.asarray(Image.open(small)))
    assert read_picture(str(saved(tmp_path, whole, "large.png")), mode, 64, 180).size == whole.size
