"""What the robot is told, by any reliable publisher: a planner that comes late hears it, latched or not.

One topic, two subscriptions. A transient-local one hears what was said before it came, but not the publishers of most
tools (``ros2 topic pub``, rqt, a speech node), which are volatile; a volatile one hears everybody, from now on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription
from std_msgs.msg import String

DEPTH = 10  # with 1, of what several publishers have latched the one that arrives last would be left, not the newest
POLL = 0.02  # s
LATCHED_QOS = QoSProfile(depth=DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LIVE_QOS = QoSProfile(depth=DEPTH)


class Instructions:
    """Calls ``heard(text, stamp_ns)`` once for each instruction that is said now, or was said after the last one.

    ``stamp_ns`` is when it was said, on the clock of the publisher's machine. A latched instruction may arrive long
    after it was said, and is ignored where it is older than the newest heard, with a warning; what is said now always
    counts.
    """

    def __init__(self, heard: Callable[[str, int], None]) -> None:
        self._heard = heard
        self._overtaken = ("", 0)  # what something else than the topic said last, and when
        self._newest, self._newest_ns = self._overtaken  # what was said last by anything
        self._subscriptions: list[Subscription] = []
        self._recent: deque[int] = deque(maxlen=2 * DEPTH)  # stamps: both subscriptions hear what is said now

    def subscribe(self, node: Node, topic: str) -> list[Subscription]:
        """Hear ``topic`` until these subscriptions are destroyed."""
        self._node, self._topic = node, topic
        # That volatile publishers do not match the latched subscription is no news: the live one hears them.
        unmatched = SubscriptionEventCallbacks(incompatible_qos=lambda _: None)
        self._subscriptions = [
            node.create_subscription(String, topic, self._on_latched, LATCHED_QOS, event_callbacks=unmatched),
            node.create_subscription(String, topic, self._on_live, LIVE_QOS),
        ]
        return self._subscriptions

    def wait(self, seconds: float) -> None:
        """Hear at least one message, for at most ``seconds``: within a callback, while nobody spins."""
        deadline = time.monotonic() + seconds
        heard = False
        while not heard and time.monotonic() < deadline:
            time.sleep(POLL)
            for subscription in self._subscriptions:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is not None:
                    subscription.callback(*taken)
                    heard = True

    def overtake(self, text: str) -> None:
        """Something else than the topic says ``text``, now: what was latched before is of the past."""
        self._newest, self._newest_ns = self._overtaken = (text, time.time_ns())

    def forget(self) -> None:
        """What the topic said: who subscribes again hears it, if it is latched and nothing else has overtaken it."""
        self._newest, self._newest_ns = self._overtaken
        self._recent.clear()

    def _on_latched(self, message: String, information: dict) -> None:
        stamp_ns = information["source_timestamp"]
        if stamp_ns > self._newest_ns:
            self._on_live(message, information)
        elif stamp_ns not in self._recent:
            self._node.get_logger().warning(
                f"{self._topic}: '{message.data}' is ignored: it was said {(self._newest_ns - stamp_ns) * 1e-9:.3f} s "
                f"before '{self._newest}', by the clocks of those who said it"
            )

    def _on_live(self, message: String, information: dict) -> None:
        stamp_ns = information["source_timestamp"]
        if stamp_ns not in self._recent:
            self._recent.append(stamp_ns)
            if stamp_ns >= self._newest_ns:
                self._newest, self._newest_ns = message.data, stamp_ns
            self._heard(message.data, stamp_ns)
