"""PNG and JPEG bytes to arrays, one image at a time. Size and mode are checked before a pixel is decoded."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedray.core.errors import BadInputError

if TYPE_CHECKING:
    from PIL.Image import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SIGNATURES = {PNG: "png", JPEG: "jpeg"}
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The JPEG markers of segments that hold the image's size and the number of its components."""
OTHERS = {b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
MOST_PIXELS = 4096 * 4096
CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3}
"""The number of channels for each of Pillow's modes. Black and white becomes grey. Palettes and inks become red, green
and blue. Transparency is dropped. The other modes have more than eight bits a channel."""
NAMES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Form:
    """The shape that all images of a data set have in common, and the conversions that are allowed."""

    shape: tuple[int, int, int]
    """Channels (1 or 3), height, width."""
    exact: bool = False
    """Whether images must be stored in this very shape and mode. Otherwise colours are converted, also grey to RGB."""
    resized: bool = False
    """Whether images of any size are resized to this one, bilinearly. Otherwise images of other sizes are refused."""

    def objection(self, image: "Image") -> str:
        """The reason why an image does not fit, to follow "an image that is"; empty if it fits."""
        (width, height), mode, (channels, *size) = image.size, image.mode, self.shape
        if self.exact:
            fits = mode == NAMES[channels] and [height, width] == size
            return "" if fits else f"{mode} {width} x {height}, not {NAMES[channels]} {size[1]} x {size[0]}"
        if CHANNELS.get(mode, 4) > channels:
            why = "and the training images are grey" if mode in CHANNELS else "which has more than 8 bits a channel"
            return f"of Pillow mode {mode}, {why}"
        if self.resized:
            return too_large(image)
        if [height, width] != size:
            return f"{width} x {height}, not {size[1]} x {size[0]} as the first: data.image_size makes all of one size"
        return ""

    def convert(self, image: "Image") -> np.ndarray:
        """The pixels of an image that fits: uint8 [c, h, w]."""
        channels, height, width = self.shape
        if image.mode == "P":
            image = image.convert("RGBA")  # a palette may have transparent colours
        if image.mode != NAMES[channels]:
            image = image.convert(NAMES[channels])
        if image.size != (width, height):
            from PIL.Image import Resampling

            image = image.resize((width, height), Resampling.BILINEAR)
        return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def too_large(image: "Image") -> str:
    width, height = image.size
    return f"{width} x {height}, more than {MOST_PIXELS:,} pixels" if width * height > MOST_PIXELS else ""


def find_form(where: str, content: bytes, side: int | None) -> Form:
    """The form of this image, for all images of its data set; its side is `side` pixels where that is given."""
    with _opened(where, content) as image:
        (width, height), mode = image.size, image.mode
        large = "" if side else too_large(image)
    if large or mode not in CHANNELS:
        raise BadInputError(f"{where} is {large or f'of Pillow mode {mode}, which has more than 8 bits a channel'}")
    return Form((CHANNELS[mode], side or height, side or width), resized=side is not None)


def is_colour(content: bytes) -> bool:
    """Whether an image's header says that it has red, green and blue. False for damaged images and other bytes."""
    if content.startswith(PNG):
        return content[25:26] in (b"\2", b"\3", b"\6")  # colours, a palette, colours and transparency
    at = 2 if content.startswith(JPEG) else len(content)
    while at + 9 < len(content) and content[at] == 0xFF:
        if content[at + 1] in FRAMES:
            return content[at + 9] > 1  # its components
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return False


def decode(where: str, content: bytes, form: Form) -> np.ndarray:
    """The pixels of an encoded image, uint8 [c, h, w]. BadInputError begins with `where`, "FILE has an image that"."""
    with _opened(where, content) as image:
        objection = form.objection(image)  # before a pixel is decoded: a small file may hold a huge image
        if objection:
            raise BadInputError(f"{where} is {objection}")
        try:
            return form.convert(image)
        except Exception as error:  # Pillow's decoders raise half a dozen unrelated types on damaged bytes
            raise BadInputError(f"{where} cannot be decoded ({type(error).__name__})") from error


def encoding_of(where: str, content: bytes) -> str:
    """The format of an encoded image, "png" or "jpeg"; BadInputError, which begins with `where`, for any other."""
    for signature, name in SIGNATURES.items():
        if content.startswith(signature):
            return name
    other = next((f", but {name}" for signature, name in OTHERS.items() if content.startswith(signature)), "")
    raise BadInputError(f"{where} is neither PNG nor JPEG{other}")


def _opened(where: str, content: bytes) -> "Image":
    """The image with its size and mode. No pixel is decoded."""
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    # Image.open would warn about large images, which are refused here by a sentence.
    kind = {"png": PngImageFile, "jpeg": JpegImageFile}[encoding_of(where, content)]
    try:
        return kind(io.BytesIO(content))
    except Exception as error:
        raise BadInputError(f"{where} cannot be decoded ({type(error).__name__})") from error
