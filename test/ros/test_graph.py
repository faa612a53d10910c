"""What the graph tells is put in words; how it is asked over DDS is part of the planner's and the recorder's tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from tc_mmwm_ros.graph import BARE, NAMELESS, command_at_risk, unheard

TWIST = "geometry_msgs/msg/Twist"


def endpoint(name: str, kind: str = TWIST, **qos) -> SimpleNamespace:
    profile = QoSProfile(depth=1, **qos)
    return SimpleNamespace(node_name=name, node_namespace="/", topic_type=kind, qos_profile=profile)


def node(publishers: list, subscriptions: list) -> SimpleNamespace:
    """Named /planner."""
    return SimpleNamespace(
        get_fully_qualified_name=lambda: "/planner",
        get_publishers_info_by_topic=lambda _: publishers,
        get_subscriptions_info_by_topic=lambda _: subscriptions,
    )


LATCHED = {"durability": DurabilityPolicy.TRANSIENT_LOCAL}
WEAK = {"reliability": ReliabilityPolicy.BEST_EFFORT}


@pytest.mark.parametrize(
    ("publishers", "subscriptions", "says"),
    [
        (["planner"], ["base"], ""),
        ([NAMELESS], ["base"], ""),  # ourselves: a node of our name has ended in this process
        (["planner", NAMELESS], ["base"], f"also published by an unknown node ({TWIST}), unscreened"),
        (
            ["planner", "planner"],
            ["base"],
            f"also published by /planner ({TWIST}) (one that was killed stays for 20 s), unscreened",
        ),
        (["planner"], [NAMELESS], ""),
        (["planner"], [BARE], ""),
        (["planner"], [], "heard by nobody"),
        (["planner"], ["recorder", "_ros2cli_7"], "heard by nobody but /_ros2cli_7, /recorder"),
    ],
)
def test_who_commands_and_who_hears(publishers, subscriptions, says):
    robot = node([endpoint(name) for name in publishers], [endpoint(name) for name in subscriptions])
    assert command_at_risk(robot, "cmd_vel", TWIST) == says


def test_a_robot_with_another_qos_is_deaf():
    says = command_at_risk(node([endpoint("planner")], [endpoint("base", **LATCHED)]), "cmd_vel", TWIST)
    assert says.startswith("not heard by /base (Volatile publisher and transient local subscription)")


@pytest.mark.parametrize(
    ("publishers", "says"),
    [
        ([], "no publisher"),
        ([endpoint("camera")], ""),
        ([endpoint("camera", "std_msgs/msg/Bool")], "published as std_msgs/msg/Bool by /camera"),
        ([endpoint("camera", "std_msgs/msg/Bool"), endpoint("other")], ""),
        (
            [endpoint("camera", **WEAK)],
            "published by /camera with a QoS that does not match: Best effort publisher and reliable subscription",
        ),
    ],
)
def test_why_nothing_is_heard(publishers, says):
    subscriptions = [endpoint("planner", **LATCHED), endpoint("planner")]  # what the less demanding one hears, is heard
    assert unheard(node(publishers, subscriptions), "image", TWIST) == says
