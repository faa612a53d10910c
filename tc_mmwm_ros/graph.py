"""What the ROS graph tells of a topic: why nothing is heard on it, and who else sends or hears what is sent there.

Each question takes a fraction of a millisecond per topic. Nodes ask once a second, never within a decision.
"""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

RECORDERS = frozenset({"recorder", "rosbag2_recorder"})  # they hear everything, and drive nothing
NAMELESS = "_NODE_NAME_UNKNOWN_"  # no ROS node, or not announced yet; ourselves too, once a node of our name has ended
BARE = "_CREATED_BY_BARE_DDS_APP_"  # a robot's own firmware, for example


def unheard(node: Node, topic: str, kind: str) -> str:
    """Why ``node``, subscribed to ``topic`` for messages of type ``kind``, hears nothing; empty: no reason is known.

    That a publisher whom it would hear is silent is none.
    """
    name = node.get_fully_qualified_name()
    own = [each for each in node.get_subscriptions_info_by_topic(topic) if _name(each) == name]
    reasons = []
    for publisher in node.get_publishers_info_by_topic(topic):
        mismatches = [_mismatch(publisher.qos_profile, subscription.qos_profile) for subscription in own]
        if publisher.topic_type != kind:
            reasons.append(f"published as {publisher.topic_type} by {_name(publisher)}")
        elif mismatches and all(mismatches):
            least = min(mismatches, key=len)  # that of the subscription that asks for least
            reasons.append(f"published by {_name(publisher)} with a QoS that does not match: {least}")
        else:
            return ""
    return "; ".join(dict.fromkeys(reasons)) or "no publisher"


def command_at_risk(node: Node, topic: str, kind: str) -> str:
    """What keeps ``node``, who publishes ``kind`` on ``topic``, from being the one who commands; empty: nothing does.

    Another publisher bypasses it. A robot that listens for another type, or not at all, is deaf; recorders and the
    hidden nodes of ``ros2 topic echo`` are no robots.
    """
    problems = []
    publishers = node.get_publishers_info_by_topic(topic)
    ours = [each for each in publishers if _name(each) == node.get_fully_qualified_name()]
    own = next(iter(ours or [each for each in publishers if each.node_name == NAMELESS]), None)
    if others := [f"{_name(each)} ({each.topic_type})" for each in publishers if each is not own]:
        killed = " (one that was killed stays for 20 s)" if len(ours) > 1 else ""
        problems.append(f"also published by {_listing(others)}{killed}, unscreened")
    listeners = node.get_subscriptions_info_by_topic(topic)
    robots = [each for each in listeners if each.node_name not in RECORDERS and not _is_hidden(each)]
    deaf = []
    for robot in robots:
        if robot.topic_type != kind:
            deaf.append(f"{_name(robot)} ({robot.topic_type})")
        elif own and (mismatch := _mismatch(own.qos_profile, robot.qos_profile)):
            deaf.append(f"{_name(robot)} ({mismatch})")
    if deaf:
        problems.append(f"not heard by {_listing(deaf)}, since it is published as {kind}")
    elif not robots:
        problems.append("heard by nobody" + (f" but {_listing(map(_name, listeners))}" if listeners else ""))
    return "; ".join(problems)


def _mismatch(offered: QoSProfile, asked: QoSProfile) -> str:
    """Why these never talk to one another, in the middleware's words; empty where they do."""
    compatibility, reason = qos_check_compatible(offered, asked)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    return ", ".join(part.removeprefix("ERROR: ") for part in reason.split(";") if part.startswith("ERROR: "))


def _is_hidden(endpoint: TopicEndpointInfo) -> bool:
    return endpoint.node_name.startswith("_") and endpoint.node_name not in (NAMELESS, BARE)


def _name(endpoint: TopicEndpointInfo) -> str:
    if endpoint.node_name in (NAMELESS, BARE):
        return "an unknown node"
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
