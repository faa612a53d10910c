"""The robot interface is read as it stands, and refuses what would go wrong later, with the mend."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from tiny_bundle import position_commanded

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.interface.robot import RobotInterface


def test_navigation_reads_as_written(navigation):
    assert navigation.sensor_names[:2] == ["odometry.x", "odometry.y"]
    assert navigation.sensor_names[6] == "lidar.ranges[0]" and navigation.sensor_names[-1] == "bumper.pressed"
    assert navigation.sensor_size == 31 and navigation.action_names == ["forward", "turn"]
    assert navigation.action_limits.dtype == np.float32
    np.testing.assert_array_equal(navigation.action_max_rate, np.float32([4, 20]))
    assert navigation.topics()["episode_event"] == "tc_mmwm_ros/msg/EpisodeEvent" and len(navigation.topics()) == 7


def test_actions_normalise_to_their_limits_and_back(navigation):
    np.testing.assert_allclose(navigation.normalise_action([[-0.3, 2.5], [0.2, 0.0]]), [[-1, 1], [0, 0]], atol=1e-6)
    units = np.random.default_rng(0).uniform(-0.3, 0.7, (5, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(navigation.denormalise_action(navigation.normalise_action(units)), units, atol=1e-6)


def test_what_stops_is_the_safe_value_or_where_a_position_is(robot, navigation):
    np.testing.assert_array_equal(navigation.safe_action(), np.float32([0, 0]))
    arm = RobotInterface.from_dict(position_commanded(robot), "arm")
    assert arm.safe_action() is None, "where it is, nobody knows yet"
    sensor = np.zeros(arm.sensor_size, np.float32)
    sensor[arm.sensor_names.index("odometry.heading")] = 1.5
    np.testing.assert_array_equal(arm.safe_action(sensor), np.float32([0, 1.5]))
    np.testing.assert_array_equal(arm.safe_action(4 * sensor), np.float32([0, 2.5]))  # not beyond the limits
    assert RobotInterface.from_dict(arm.to_dict(), "again") == arm


def test_plain_dict_reads_back_to_the_same_interface(navigation):
    again = RobotInterface.from_dict(navigation.to_dict(), "dataset.json")
    assert again == navigation and again.digest == navigation.digest


def test_what_is_latched_is_named_and_leaves_other_digests_as_they_were(robot, navigation):
    assert navigation.latched_topics == frozenset() and "latched" not in str(navigation.to_dict())
    robot["sensors"][2]["latched"] = True
    mine = RobotInterface.from_dict(robot, "mine")
    assert mine.latched_topics == {"bumper"} and navigation.differences(mine) == []


def test_differences_name_what_a_model_would_see_otherwise(robot, navigation):
    robot["name"] = "mine"
    robot["images"][0]["height"] = robot["images"][0]["width"] = 96
    robot["images"][0]["topic"] = "front/image"  # where it comes from does not matter
    robot["sensors"][0]["fields"][4]["unit"] = "km/h"
    robot["sensors"][1]["fields"][0] |= {"non_finite": "refuse", "nan_as": 3.0}
    robot["action"]["fields"][0]["limits"] = [-0.3, 1.0]
    robot["action"]["fields"][0]["max_rate"] = 1.0
    del robot["sensors"][2]
    other = RobotInterface.from_dict(robot, "mine")
    assert navigation.differences(navigation) == []
    differing = {line.split(":")[0] for line in navigation.differences(other)}
    assert differing >= {
        "images.overhead.height",
        "images.overhead.width",
        "sensors.odometry.forward_speed.unit",
        "sensors.lidar.ranges.non_finite",
        "sensors.lidar.ranges.nan_as",
        "action.forward.limits",
        "sensors",
    }
    assert not any("topic" in line or "max_rate" in line for line in navigation.differences(other))
    assert "images.overhead.height: 64 in 'navigation', 96 in 'mine'" in navigation.differences(other)


def _set(*keys_and_value):
    *keys, last, value = keys_and_value

    def bend(robot):
        for key in keys:
            robot = robot[key]
        robot[last] = value

    return bend


def _hold(what):
    return lambda robot: robot["action"]["fields"][1].update(safe=None, hold=what)


@pytest.mark.parametrize(
    ("bend", "says"),
    [
        (_set("images", 0, "hieght", 3), "did you mean 'height'"),
        (_set("images", 0, "type", "sensor_msgs/msg/PointCloud2"), "images.0.type"),
        (_set("images", 0, "encoding", "yuv422"), "'rgb8', 'bgr8' or 'mono8'"),
        (_set("images", 0, "max_age", 0), "greater than 0"),
        (_set("images", 0, "topic", "camera image"), "camera/image_raw"),
        (_set("rate", "10"), "valid number"),
        (_set("rate", float("inf")), "less than or equal to 1000"),
        (_set("sensors", 0, "type", "nav_msgs/msg/Odometri"), "did you mean 'nav_msgs/msg/Odometry'"),
        (_set("sensors", 0, "type", "Odometry"), "package/msg/Name"),
        (_set("sensors", 0, "fields", 0, "path", "pose.position.x"), "has no 'position' there"),
        (_set("sensors", 0, "fields", 0, "path", "pose.pose.position.q"), "geometry_msgs/msg/Point has x, y, z"),
        (_set("sensors", 0, "fields", 0, "path", "pose.pose.position"), "not a number"),
        (_set("sensors", 0, "fields", 0, "path", "pose..x"), "not a field path"),
        (_set("sensors", 0, "fields", 2, "transform", "yaw"), "'cos_yaw' or 'sin_yaw'"),
        (_set("sensors", 0, "fields", 2, "path", "pose.pose.position.x"), "needs an orientation"),
        (_set("sensors", 0, "fields", 1, "name", "x"), "field names must differ, found twice: x"),
        (_set("sensors", 0, "fields", 0, "limits", [10.0, -10.0]), "swap them"),
        (_set("sensors", 1, "name", "odometry"), "names of images and sensors must differ"),
        (_set("sensors", 1, "topic", "/odom"), "put all fields of one topic under one sensor"),
        (_set("sensors", 1, "fields", 0, "size", None), "set 'size', or take one element"),
        (_set("sensors", 1, "fields", 0, "clip", None), "without 'clip'"),
        (_set("sensors", 1, "fields", 0, "limits", [0.0, 3.0]), "keep one of the two"),
        (_set("sensors", 2, "fields", 0, "size", 2), "is one value"),
        (_set("action", "fields", 0, "safe", 1.0), "safe value 1.0 is outside its limits"),
        (_set("action", "fields", 0, "safe", None), "neither 'safe' nor 'hold'"),
        (_set("action", "fields", 0, "hold", "odometry.forward_speed"), "'safe' and 'hold'"),
        (_hold("odometry.turn_rat"), "no sensor field; did you mean 'odometry.turn_rate'"),
        (_hold("odometry.forward_speed"), "is in rad/s; odometry.forward_speed, which it is to hold, in m/s"),
        (_set("action", "fields", 0, "path", "linear.x"), "has no 'linear' there"),
        (_set("action", "fields", 0, "path", "twist['x'].linear"), "cannot be written to"),
        (_set("action", "fields", 0, "path", "data[0:2]"), "or a joint's name, e.g. velocity['elbow']"),
        (_set("sensors", 1, "fields", 0, "path", "ranges['left']"), "LaserScan has no list name or joint_names"),
        (_set("action", "fields", 1, "limits", [float("nan"), 1.0]), "finite"),
        (_set("action", "fields", []), "at least 1"),
        (_set("schema", 2), "schema"),
    ],
)
def test_refuses_with_the_mend(robot, tmp_path, bend, says):
    bend(robot)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(robot))
    with pytest.raises(ConfigError, match=r"mine\.yaml") as refusal:
        RobotInterface.load(path)
    assert says in str(refusal.value)


def test_custom_message_types_pass_unchecked(robot):
    robot["sensors"][2] |= {"type": "my_robot_msgs/msg/Bumper"}
    assert RobotInterface.from_dict(robot, "mine").sensors[2].type == "my_robot_msgs/msg/Bumper"
