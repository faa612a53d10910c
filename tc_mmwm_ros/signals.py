"""SIGINT, SIGTERM and SIGHUP as a flag that a spinning loop looks at.

rclpy's own handlers would take the context away in the middle of a callback: before the safe action is out, between two
writes. A flag also makes a second Ctrl-C harmless. SIGHUP comes when the terminal is closed or ssh drops.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from threading import Event
from typing import NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args


def init(arguments: list[str] | None = None) -> Event:
    """Initialise rclpy; the event is set once a signal has come. SystemExit (2): an argument is not understood."""
    try:
        others = remove_ros_args(sys.argv)[1:] if arguments is None else remove_ros_args(arguments)
    except RuntimeError as error:  # a parameter file that is not there, -p text:="" of a shell, an option that is none
        _refuse(str(error))
    if others:  # rclpy would pass over them: a node that was told its model would go without
        _refuse(f"{' '.join(others)!r} is not understood; give --ros-args -p NAME:=VALUE ..., or --help")
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup: is to outlive its terminal
            signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    return stop


def _refuse(why: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {why}", file=sys.stderr)
    raise SystemExit(2)


def spin(node: Node, stop: Event) -> None:
    """Run the callbacks of ``node`` until ``stop`` is set."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)  # short: a signal does not wake the wait up
    finally:
        executor.shutdown()
