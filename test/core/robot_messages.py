"""Real ROS 2 message classes without a ROS installation: rosbags'."""

from __future__ import annotations

import numpy as np
from rosbags.typesys import Stores, get_typestore

SECOND = 1_000_000_000
types = get_typestore(Stores.LATEST).types


def header(seconds: float):
    nanoseconds = round(seconds * SECOND)
    stamp = types["builtin_interfaces/msg/Time"](sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="base_link")


def image(seconds: float, pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0):
    """sensor_msgs/Image of uint8 [H, W, C], with ``padding`` bytes of noise at the end of each row."""
    height, width, channels = pixels.shape
    rows = np.full((height, width * channels + padding), 171, np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    return types["sensor_msgs/msg/Image"](
        header=header(seconds),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )


def odometry(seconds: float, x=0.0, y=0.0, quaternion=(0.0, 0.0, 0.0, 1.0), speed=0.0, turn=0.0):
    vector, point = types["geometry_msgs/msg/Vector3"], types["geometry_msgs/msg/Point"]
    covariance = np.zeros(36)
    pose = types["geometry_msgs/msg/Pose"](
        position=point(x=x, y=y, z=0.0),
        orientation=types["geometry_msgs/msg/Quaternion"](
            **dict(zip("xyzw", quaternion, strict=True)),
        ),
    )
    twist = types["geometry_msgs/msg/Twist"](linear=vector(x=speed, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=turn))
    return types["nav_msgs/msg/Odometry"](
        header=header(seconds),
        child_frame_id="base_link",
        pose=types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=covariance),
        twist=types["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=covariance),
    )


def scan(seconds: float, ranges) -> object:
    return types["sensor_msgs/msg/LaserScan"](
        header=header(seconds),
        angle_min=0.0,
        angle_max=6.28,
        angle_increment=0.26,
        time_increment=0.0,
        scan_time=0.1,
        range_min=0.05,
        range_max=3.0,
        ranges=np.asarray(ranges, np.float32),
        intensities=np.zeros(0, np.float32),
    )


def boolean(value: bool):
    return types["std_msgs/msg/Bool"](data=value)
