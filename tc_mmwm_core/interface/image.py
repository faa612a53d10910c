"""From sensor_msgs/Image and CompressedImage to the uint8 array that the model sees."""

from __future__ import annotations

from typing import Any

# OpenCV: decodes JPEG and PNG and resizes by area, as cv_bridge and image_transport do.
import cv2
import numpy as np

from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.robot import CHANNELS, ImageSpec

MESSAGE_CHANNELS = CHANNELS | {"rgba8": 4, "bgra8": 4}
BLANK = 3.0  # of 255: standard deviation that the noise of a covered sensor stays below, and any scene is above
_ORDER = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "GRAY"}


def decode_image(message: Any, spec: ImageSpec) -> np.ndarray | Fault:
    """uint8 [H, W, C] as ``spec`` asks, read-only, or the fault that says what is wrong with the message.

    Larger and smaller images of the same aspect ratio are resized by area interpolation; another aspect ratio is
    refused, since cropping or stretching would change what the camera means.
    """
    compressed = spec.type.endswith("CompressedImage")
    image = _decompress(message, spec) if compressed else _raw(message, spec)
    if isinstance(image, Fault):
        return image
    pixels, encoding = image
    height, width = pixels.shape[:2]
    if width * spec.height != height * spec.width:
        return Fault(
            FaultKind.WRONG_SIZE,
            spec.name,
            f"{spec.topic}: image is {width}x{height}, the model sees {spec.width}x{spec.height} and only the same "
            "aspect ratio is resized; crop it before, or change the robot interface and train again",
        )
    if (height, width) != (spec.height, spec.width):
        pixels = cv2.resize(pixels, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
    if encoding != spec.encoding:
        pixels = cv2.cvtColor(pixels, getattr(cv2, f"COLOR_{_ORDER[encoding]}2{_ORDER[spec.encoding]}"))
    pixels = np.ascontiguousarray(pixels).reshape(spec.height, spec.width, spec.channels)
    pixels.flags.writeable = False
    return pixels


def is_blank(pixels: np.ndarray) -> bool:
    """Whether ``pixels`` uint8 [H, W, C] are all of one colour, but for noise."""
    return bool(cv2.meanStdDev(pixels)[1].max() < BLANK)  # NumPy's takes 20 ms of VGA, in the thread that decides


def _raw(message: Any, spec: ImageSpec) -> tuple[np.ndarray, str] | Fault:
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    channels = MESSAGE_CHANNELS.get(encoding)
    if channels is None:
        return Fault(
            FaultKind.WRONG_ENCODING,
            spec.name,
            f"{spec.topic}: encoding is '{encoding}', allowed are {', '.join(MESSAGE_CHANNELS)}",
        )
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < width * channels or data.size != height * step:
        return Fault(
            FaultKind.WRONG_SIZE,
            spec.name,
            f"{spec.topic}: {data.size} bytes of data do not make {height} rows of {step} bytes with {width} "
            f"{encoding} pixels each",
        )
    return data.reshape(height, step)[:, : width * channels].reshape(height, width, channels), encoding


def _decompress(message: Any, spec: ImageSpec) -> tuple[np.ndarray, str] | Fault:
    form = message.format.lower()
    if not any(codec in form for codec in ("jpeg", "jpg", "png")) or "compresseddepth" in form:
        return Fault(
            FaultKind.WRONG_ENCODING, spec.name, f"{spec.topic}: format is '{message.format}', allowed are jpeg and png"
        )
    data = np.frombuffer(message.data, np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        return Fault(
            FaultKind.WRONG_SIZE, spec.name, f"{spec.topic}: {data.size} bytes do not decode as '{message.format}'"
        )
    return pixels, "bgr8"
