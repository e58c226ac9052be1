"""PNG images, in and out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread, imsave
from numpy.typing import NDArray

from echelon.types import EchelonError


def read_png(path: Path) -> NDArray[np.uint8]:
    """``[H, W, 3] uint8``; grey images are repeated, an alpha channel is dropped."""
    try:
        image: NDArray[Any] = imread(path, format="png")
    except (OSError, SyntaxError, ValueError) as error:
        raise EchelonError(f"{path}: cannot be read as a PNG image") from error
    pixels = image[..., :3] if image.ndim == 3 else np.stack([image] * 3, -1)
    return pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)


def png_text(image: NDArray[np.uint8]) -> str:
    """An image ``[H, W, 3]`` as base64, to stand inside a page."""
    out = io.BytesIO()
    imsave(out, image, format="png")
    return base64.b64encode(out.getvalue()).decode()
