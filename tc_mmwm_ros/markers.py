"""Candidates as RViz sees them: paths coloured by verdict."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from rclpy.duration import Duration
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from tc_mmwm_core.interface.robot import ActionSpec
from tc_mmwm_core.runtime.selection import Screening, Verdict

POINTS_A_STEP = 4
REJECTED = ColorRGBA(r=0.9, g=0.2, b=0.2, a=0.4)
ACCEPTED = ColorRGBA(r=0.2, g=0.8, b=0.3, a=0.6)
CHOSEN = ColorRGBA(r=0.1, g=0.4, b=1.0, a=1.0)


def twist_fields(action: ActionSpec) -> tuple[int, int] | None:
    """Indices of forward speed (m/s) and turn rate (rad/s) among the action fields; None where there are no such."""
    ends = [".".join(field.path.split(".")[-2:]) for field in action.fields]
    return (ends.index("linear.x"), ends.index("angular.z")) if {"linear.x", "angular.z"} <= set(ends) else None


def unicycle_paths(forward: np.ndarray, turn: np.ndarray, duration: float) -> np.ndarray:
    """Integrate a unicycle from the origin, x ahead, y to the left (REP-103).

    Args:
        forward: [N, K], m/s.
        turn: [N, K], rad/s.
        duration: s, how long each of the K actions lasts.

    Returns:
        [N, 1 + K * POINTS_A_STEP, 2], m.
    """
    step = duration / POINTS_A_STEP
    forward, turn = (np.repeat(values, POINTS_A_STEP, 1) for values in (forward, turn))
    # The heading in the middle of each small step makes the rule of order two.
    heading = np.cumsum(turn * step, 1) - turn * step / 2
    moves = forward[..., None] * step * np.stack([np.cos(heading), np.sin(heading)], -1)
    return np.concatenate([np.zeros_like(moves[:, :1]), np.cumsum(moves, 1)], 1)


def candidate_markers(
    screening: Screening, fields: tuple[int, int], step_duration: float, header: Header, lifetime: float, count: int
) -> MarkerArray:
    """At most ``count`` candidates, evenly drawn from all, rejected red and accepted green; the chosen one blue.

    ``header.frame_id`` is the robot's own frame. After ``lifetime`` (s) RViz lets go of them by itself.
    """
    shown = np.linspace(0, len(screening.verdict) - 1, min(count, len(screening.verdict))).round().astype(int)
    shown = shown[np.isfinite(screening.actions[shown]).all((1, 2))]
    accepted = screening.verdict[shown] == Verdict.ACCEPTED
    groups = [("rejected", shown[~accepted], REJECTED, 0.005), ("accepted", shown[accepted], ACCEPTED, 0.008)]
    groups.append(("chosen", np.array([screening.chosen] if screening.chosen >= 0 else [], int), CHOSEN, 0.03))
    markers = []
    for group, indices, colour, width in groups:
        marker = Marker(header=header, ns=group, type=Marker.LINE_LIST, action=Marker.ADD, color=colour)
        marker.scale.x = width
        marker.lifetime = Duration(seconds=lifetime).to_msg()
        marker.pose.orientation.w = 1.0
        actions = screening.actions[indices].astype(float)
        paths = unicycle_paths(actions[..., fields[0]], actions[..., fields[1]], step_duration)
        segments = np.stack([paths[:, :-1], paths[:, 1:]], 2).reshape(-1, 2)
        marker.points = [Point(x=x, y=y) for x, y in segments.tolist()]
        marker.action = Marker.ADD if marker.points else Marker.DELETE
        markers.append(marker)
    return MarkerArray(markers=markers)
