"""Images of every encoding become the array that the model sees, or a fault that says why not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from robot_messages import header, image, types

from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.image import decode_image, is_blank
from tc_mmwm_core.interface.robot import ImageSpec

SPEC = ImageSpec(name="front", topic="camera", type="sensor_msgs/msg/Image", height=16, width=24, max_age=0.3)
COMPRESSED = SPEC.model_copy(update={"type": "sensor_msgs/msg/CompressedImage"})
RGB = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
ALPHA = np.full((16, 24, 1), 9, np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("rgba8", np.concatenate([RGB, ALPHA], 2), RGB),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], 2), RGB),
        ("mono8", RGB[..., :1], RGB[..., [0, 0, 0]]),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_encodings_and_row_padding(encoding, pixels, expected, padding):
    decoded = decode_image(image(0.0, pixels, encoding, padding), SPEC)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8 and not decoded.flags.writeable


def test_larger_images_are_averaged_over_areas():
    large = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    mean = large.reshape(16, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(decode_image(image(0.0, large), SPEC) - mean).max() <= 0.5


def test_model_may_see_grey():
    grey = decode_image(image(0.0, RGB), SPEC.model_copy(update={"encoding": "mono8"}))
    assert grey.shape == (16, 24, 1)
    assert np.abs(grey[..., 0] - RGB @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize(("codec", "tolerance"), [("png", 0), ("jpeg", 12)])
def test_compressed_images(codec, tolerance):
    smooth = cv2.resize(RGB[:2, :3], (24, 16), interpolation=cv2.INTER_LINEAR)
    data = cv2.imencode(f".{codec}", smooth[..., ::-1])[1].reshape(-1)
    message = types["sensor_msgs/msg/CompressedImage"](
        header=header(0.0), format=f"rgb8; {codec} compressed bgr8", data=data
    )
    assert np.abs(decode_image(message, COMPRESSED).astype(int) - smooth).mean() <= tolerance


def test_faults_name_what_was_found_and_what_is_allowed():
    def fault(message, spec=SPEC) -> tuple[FaultKind, str]:
        result = decode_image(message, spec)
        assert isinstance(result, Fault) and result.field == "front"
        return result.kind, result.reason

    kind, reason = fault(image(0.0, RGB, "16UC1"))
    assert kind is FaultKind.WRONG_ENCODING and "'16UC1'" in reason and "rgb8" in reason
    kind, reason = fault(image(0.0, RGB[:, :20]))
    assert kind is FaultKind.WRONG_SIZE and "20x16" in reason and "24x16" in reason
    short = image(0.0, RGB)
    short.data = short.data[:-1]
    assert fault(short)[0] is FaultKind.WRONG_SIZE
    empty = image(0.0, RGB)
    empty.height = 0
    assert fault(empty)[0] is FaultKind.WRONG_SIZE
    broken = types["sensor_msgs/msg/CompressedImage"](header=header(0.0), format="jpeg", data=np.arange(9, dtype="u1"))
    assert fault(broken, COMPRESSED)[0] is FaultKind.WRONG_SIZE
    depth = types["sensor_msgs/msg/CompressedImage"](
        header=header(0.0), format="16UC1; compressedDepth png", data=np.zeros(9, "u1")
    )
    assert fault(depth, COMPRESSED)[0] is FaultKind.WRONG_ENCODING


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_what_is_all_of_one_colour_is_blank_whatever_its_noise(colour):
    noise = np.random.default_rng(0).normal(0, 2, (16, 24, 3))
    pixels = np.clip(np.full((16, 24, 3), colour) + noise, 0, 255).astype(np.uint8)
    assert is_blank(pixels)
    pixels[4:9, 8:12, 2] ^= 64  # something small is in view, in one channel
    assert not is_blank(pixels)


def test_one_grey_channel_may_be_blank_too():
    grey = np.full((16, 24, 1), 40, np.uint8)
    grey.flags.writeable = False  # as a decoded image is
    assert is_blank(grey)
    assert not is_blank(RGB[..., :1])
