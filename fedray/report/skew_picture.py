"""A picture of feature skew: the same few images as some clients see them."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fedray.data.skew import Skew

IMAGES, CLIENTS = 8, 10
"""The most columns, and the most rows below that of the original images."""
SIDE, GAP, MARGIN = 96, 4, 90
"""Pixels: the most for an image's longer side, those between images, and those to their left for client numbers."""


def draw_skew(skew: Skew, seed: int, clients: int, images: np.ndarray) -> bytes:
    """A PNG of the first images, uint8 [n, c, h, w], as they are and as some of N `clients` see them."""
    shown = images[:IMAGES]
    spread = np.unique(np.linspace(0, clients - 1, CLIENTS).round().astype(int)).tolist()
    rows = {"as it is": shown} | {f"client {k}": skew.apply(shown, seed, k, clients) for k in spread}
    times = max(1, SIDE // max(shown.shape[2:]))
    height, width = (times * side + GAP for side in shown.shape[2:])
    canvas = Image.new("RGB", (MARGIN + len(shown) * width, GAP + len(rows) * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    for i, (label, seen) in enumerate(rows.items()):
        pen.text((GAP, i * height + height // 2), label, fill="black", anchor="lm", font=font)
        for j, image in enumerate(seen):
            pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)  # grey in three channels
            tile = Image.fromarray(np.repeat(np.repeat(pixels, times, axis=0), times, axis=1))
            canvas.paste(tile, (MARGIN + j * width, GAP + i * height))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()
