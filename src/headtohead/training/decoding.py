"""Image files as a person sees them: upright, on a ground, in eight bits.

Shape suffixes: H height, W width.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from headtohead.options import ConfigError, require

# An optional dependency, which reads the photographs of iPhones.
if find_spec("pillow_heif"):
    import_module("pillow_heif").register_heif_opener()

# Tags of EXIF and TIFF.
_ORIENTATION, _BITS, _PHOTOMETRIC = 274, 258, 262
# How to put an image upright, by its orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats that Pillow names without being able to read their images.
_NAMED_ONLY = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
# Largest values that numbers without a stated range may mean, the smallest that fits.
_RANGES = {"I": (255, 65535), "F": (1, 255, 65535)}


# A JPEG of more megapixels is decoded at a fraction of its size that leaves at least so many times the pixels of a side
# of the result. Pillow calls the outcome of three times indistinguishable.
_LARGE, _GAP = 1, 3


def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be read, in lower case and with their dots."""
    kinds = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in kinds if kind in Image.OPEN and kind not in _NAMED_ONLY)


def read_picture(path: str, mode: str, side: int, max_megapixels: int) -> Image.Image:
    """Read an image file as a person sees it; of an animation, the first frame.

    Args:
        mode: "RGB", or "L" for grey.
        side: side in pixels to which the image will be made smaller, of which a large JPEG needs no more.
        max_megapixels: the largest image that is read, in millions of pixels.

    Raises:
        OSError: the file cannot be read. The message names it.
        ConfigError: the image is larger.
    """
    # Pillow's own limit warns long before it refuses, and no option sets it.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which do not matter here
            # Not by the path: Pillow would map some TIFF files into memory with their sides exchanged.
            with open(path, "rb") as stream, Image.open(stream) as file:
                megapixels = file.width * file.height / 1e6
                found = f"{path} has {megapixels:.0f} megapixels"
                require(megapixels <= max_megapixels, "dataset.max_megapixels", max_megapixels, found)
                if megapixels > _LARGE:
                    file.draft(None, (_GAP * side, _GAP * side))
                file.load()
                return on_a_ground(_upright(_in_eight_bits(file))).convert(mode)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # a damaged file may raise anything
        raise OSError(f"cannot read {path}: {_reason(path, error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reason(path: str, error: Exception) -> str:
    try:
        if Path(path).stat().st_size == 0:
            return "it is empty"
    except OSError as missing:
        return missing.strerror or "it is missing"
    if isinstance(error, UnidentifiedImageError):
        return "no image of a kind that Pillow knows"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _upright(image: Image.Image) -> Image.Image:
    """Turn or mirror an image as its metadata say."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata do not hide the image from a person
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def on_a_ground(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white; on black where all of it would vanish on white."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    low, high = rgba.getchannel("A").getextrema()
    # An alpha of zero everywhere comes from programs that do not mean it.
    if low == 255 or high == 0:
        return rgba.convert("RGB")
    on_white, on_black = (
        Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba).convert("RGB")
        for ground in ("white", "black")
    )
    return on_black if _is_plain(on_white) and not _is_plain(on_black) else on_white


def _is_plain(image: Image.Image) -> bool:
    return len(image.getcolors(1) or ()) == 1


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Convert modes of more than eight bits, and those that Pillow cannot convert to RGB, and keep the metadata."""
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(*profiles, "LAB", "RGB")
        made = ImageCms.applyTransform(image, transform)
        assert made is not None
        return made
    if not image.mode.startswith(("I", "F")):
        return image
    numbers_HW = np.asarray(image).astype(np.float64)
    grey = Image.fromarray(_bytes(numbers_HW, image))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha_HW = np.where(numbers_HW == transparent, 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(alpha_HW))
    grey.info["exif"] = image.info.get("exif", b"")
    return grey


def _bytes(numbers_HW: np.ndarray, image: Image.Image) -> np.ndarray:
    """Scale the numbers of one channel to bytes.

    The range is what the format states. Otherwise it is the smallest usual one that holds all numbers, or else that of
    the image itself.
    """
    finite_HW = np.nan_to_num(numbers_HW, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = 0.0, _stated_range(image)
    if high is None:
        fitting = [top for top in _RANGES[image.mode] if finite_HW.min() >= 0 and finite_HW.max() <= top]
        low, high = (0.0, fitting[0]) if fitting else (finite_HW.min(), finite_HW.max())
    share_HW = np.clip((finite_HW - low) / max(high - low, np.finfo(float).tiny), 0, 1)
    if _tag(image, _PHOTOMETRIC) == 0:  # white is zero
        share_HW = 1 - share_HW
    return np.round(255 * share_HW).astype(np.uint8)


def _stated_range(image: Image.Image) -> float | None:
    """Return the value of white in an image of one channel if its format says so."""
    if image.mode.startswith("I;"):
        return 2.0 ** (_tag(image, _BITS) or 16) - 1
    # Pillow scales these formats to 16 bits.
    return 65535.0 if image.mode == "I" and image.format in ("PNG", "PPM") else None


def _tag(image: Image.Image, number: int) -> int | None:
    """Return a tag of a TIFF file that is one number, or one for each channel."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
