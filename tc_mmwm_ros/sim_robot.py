"""A simulated differential-drive robot in MuJoCo that speaks the topics of ``config/robots/navigation.yaml``.

Threads: one. The timer, the subscriptions and the service all run in the thread that spins, which is also the one
that made the EGL context of the camera. Physics has no thread of its own: whenever anything happens (a timer tick each
10 ms, a command, a reset) the world is first run forward to the present in steps of 5 ms, so a command acts from the
moment it arrives and time does not drift. A process that was held up catches up at most ``MAX_CATCH_UP``, so that
whoever looks at the stamps sees the robot brake as it would have; what is beyond is skipped (or, where this node makes
the time, time waits, already after ``MAX_TIME_STEP``), and a warning says so.

Time: by default that of the node's clock. With ``publish_clock`` this node is the source of time: it publishes
``/clock`` from its own steady clock times ``real_time_factor``, and everything is stamped in that time; start the other
nodes with ``use_sim_time:=true``. A message is stamped with the time of the physics state that it shows.

Publishes (all topics relative, sensors reliable as REP-2003 asks of drivers):

    camera/image_raw  sensor_msgs/Image      rgb8 64x64 from above, frame overhead_camera
    scan              sensor_msgs/LaserScan  24 rays, first straight ahead, counter-clockwise; +inf: no return (REP-117)
    odom              nav_msgs/Odometry      odom -> base_link (REP-105); true pose unless odometry_noise is set
    bumper            std_msgs/Bool          whether the hull touches a wall or a pillar
    episode_event     EpisodeEvent           reliable, transient local: START, VIOLATION_BEGIN/END, INSTRUCTION, END
    instruction       std_msgs/String        reliable, transient local: what a new episode asks (publish_instruction)
    /clock            rosgraph_msgs/Clock    with publish_clock

Subscribes to ``cmd_vel`` (geometry_msgs/TwistStamped, clipped to the robot's limits) and to ``instruction``, of which
the newest is what the episode is judged against; one that cannot be judged, or is not understood to the last word, ends
the episode with success unknown and the reason in END. When the last command is older than ``command_timeout``, by its
stamp as in ros2_controllers' diff_drive_controller (without one, since it arrived), the robot brakes by itself; from
full speed that takes up to 0.25 s, so by default it stands half a second after the last command was given.
Service ``reset_episode`` (ResetEpisode) begins a new episode.

No TF is published: in RViz take ``odom`` as the fixed frame for the Odometry display, or ``base_link`` for the scan and
for the planner's candidates.
"""

from __future__ import annotations

import array
import itertools
import math
import sys
import time
import uuid

import numpy as np
import rclpy
from cv_bridge import CvBridge
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterValueException, ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, LaserScan
from std_msgs.msg import Bool, Header, String

from tc_mmwm_core.domains.navigation import instructions
from tc_mmwm_core.domains.navigation.environment import ACTION_HIGH, ACTION_LOW
from tc_mmwm_core.domains.navigation.episode import Episode
from tc_mmwm_core.domains.navigation.instructions import Instruction
from tc_mmwm_core.domains.navigation.scene import Scene, draw_scene
from tc_mmwm_core.domains.navigation.simulator import LIDAR_RANGE, LIDAR_RAYS, SUBSTEPS, TIMESTEP, Reading, Simulator
from tc_mmwm_ros import signals
from tc_mmwm_ros.instructions import Instructions
from tc_mmwm_ros.msg import EpisodeEvent
from tc_mmwm_ros.parameters import describe, helped
from tc_mmwm_ros.srv import ResetEpisode

TIMESTEP_NS = round(TIMESTEP * 1e9)
TICK_NS = 2 * TIMESTEP_NS  # how often the world is brought up to date, and the period of /clock
LAYOUTS_TO_TRY = 100  # for the zones of an instruction: three may be named, a layout has two
MAX_CATCH_UP = 5_000_000_000  # ns
MAX_TIME_STEP = 200_000_000  # ns that /clock goes on by at once
LATCHED = DurabilityPolicy.TRANSIENT_LOCAL


PARAMETERS = (
    (
        "seed",
        0,
        describe(
            "seed of the first layout; if it lacks the goal or a zone of the instruction, the next that has them",
            0,
            2**62,
            read_only=True,
        ),
    ),
    (
        "instruction",
        "",
        describe("instruction of the first episodes; empty: drawn from the seed of the layout", read_only=True),
    ),
    ("max_steps", 200, describe("control steps of 0.1 s after which an episode times out", 1, 100000, read_only=True)),
    ("auto_reset", True, describe("start the next layout when an episode has ended", read_only=True)),
    ("auto_reset_delay", 2.0, describe("pause before auto_reset starts the next layout, s", 0.0, 60.0, read_only=True)),
    ("publish_instruction", True, describe("publish the instruction of each new episode", read_only=True)),
    (
        "sensor_rate",
        20.0,
        describe("rate of all sensors, Hz; the period is rounded to whole steps of 5 ms", 1.0, 200.0, read_only=True),
    ),
    (
        "command_timeout",
        0.25,
        describe("age of the last command at which the robot brakes, s", 0.05, 5.0, read_only=True),
    ),
    ("publish_clock", False, describe("publish /clock, as the source of simulated time", read_only=True)),
    (
        "real_time_factor",
        1.0,
        describe("speed of simulated time with publish_clock; 1: real time", 0.05, 20.0, read_only=True),
    ),
    (
        "image_noise",
        0.0,
        describe("standard deviation of the noise on each pixel, grey levels", 0.0, 255.0, read_only=True),
    ),
    ("range_noise", 0.0, describe("standard deviation of the noise on each lidar ray, m", 0.0, 1.0, read_only=True)),
    (
        "odometry_noise",
        0.0,
        describe("standard deviation of the noise on the pose, m and rad", 0.0, 1.0, read_only=True),
    ),
    (
        "action_noise",
        0.0,
        describe("standard deviation of the noise on each command, in half ranges", 0.0, 1.0, read_only=True),
    ),
)


class SimRobot(Node):
    """See the module's docstring. Must be spun in the thread that made it."""

    def __init__(self, **node_arguments) -> None:
        super().__init__("sim_robot", **node_arguments)
        self.declare_parameters("", PARAMETERS)
        given = {name: self.get_parameter(name).value for name, *_ in PARAMETERS}
        seed, text = given["seed"], given["instruction"]
        self._max_steps = given["max_steps"]
        self._auto_reset, self._reset_delay = given["auto_reset"], given["auto_reset_delay"]
        self._publish_instruction = given["publish_instruction"]
        self._sensor_every = round(1 / (given["sensor_rate"] * TIMESTEP))
        self._timeout = given["command_timeout"]
        self._publish_clock = given["publish_clock"]
        self._factor = given["real_time_factor"] if self._publish_clock else 1.0
        self._image_noise, self._range_noise = given["image_noise"], given["range_noise"]
        self._odometry_noise, self._action_noise = given["odometry_noise"], given["action_noise"]

        try:
            if text:
                instructions.parse(text)
        except ValueError as error:
            raise InvalidParameterValueException("instruction", text, str(error)) from None

        self._simulator = Simulator()
        self._bridge = CvBridge()
        self._episode: Episode | None = None  # None: nothing to judge
        self._over = True
        self._episode_id = ""
        self._given = text  # an instruction that somebody gave outlives the episode
        self._begun_at = 0  # ns of the wall clock
        self._resume_at: int | None = None
        self._substeps = 0
        self._command = np.zeros(2)
        self._commanded_at = 0
        self._rng = np.random.default_rng(seed)

        latched = QoSProfile(depth=1, durability=LATCHED)
        self._image_publisher = self.create_publisher(Image, "camera/image_raw", 5)
        self._scan_publisher = self.create_publisher(LaserScan, "scan", 5)
        self._odometry_publisher = self.create_publisher(Odometry, "odom", 5)
        self._bumper_publisher = self.create_publisher(Bool, "bumper", 5)
        self._event_publisher = self.create_publisher(
            EpisodeEvent, "episode_event", QoSProfile(depth=100, durability=LATCHED)
        )
        self._instruction_publisher = self.create_publisher(String, "instruction", latched)
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", 1) if self._publish_clock else None

        first = self._next_layout(seed)
        self._simulator.reset(first[0])  # the first picture takes long: before time begins
        self._source = Clock(clock_type=ClockType.STEADY_TIME) if self._publish_clock else self.get_clock()
        self._seen = self._source.now().nanoseconds  # of the source, when the world was last brought up to date
        self._behind = 0  # ns of world time that are not yet a whole physics step
        self._time = 0 if self._publish_clock else self._seen  # ns, of the physics state
        self._begin(*first)

        self.create_subscription(TwistStamped, "cmd_vel", self._on_command, 1)
        Instructions(self._on_instruction).subscribe(self, "instruction")
        self.create_service(ResetEpisode, "reset_episode", self._on_reset)
        self.create_timer(TICK_NS * 1e-9 / self._factor, self._on_tick, clock=self._source)

    def destroy_node(self) -> None:
        """Free the camera's EGL context, then the node."""
        self._simulator.close()
        super().destroy_node()

    # --- time and physics

    def _on_tick(self) -> None:
        self._advance()
        if self._resume_at is not None and self._time >= self._resume_at:
            self._begin(*self._next_layout(self._simulator.scene.seed + 1))

    def _advance(self) -> None:
        """Run the world up to the present."""
        now = self._source.now().nanoseconds
        elapsed = int((now - self._seen) * self._factor)
        self._seen = now
        limit = MAX_TIME_STEP if self._publish_clock else MAX_CATCH_UP
        if not 0 <= elapsed <= limit:
            self.get_logger().warning(
                f"time jumped by {elapsed * 1e-9:.2f} s: skipped (allowed: 0 to {limit * 1e-9} s)",
                throttle_duration_sec=5.0,
            )
            elapsed = min(max(elapsed, 0), limit)
        self._behind += elapsed
        if not self._publish_clock:
            self._time = now - self._behind
        while self._behind >= TIMESTEP_NS:
            self._behind -= TIMESTEP_NS
            self._time += TIMESTEP_NS
            self._step()

    @property
    def _silent(self) -> bool:
        """Whether the last command is too old."""
        return self._time - self._commanded_at > self._timeout * 1e9

    def _step(self) -> None:
        self._simulator.step(np.zeros(2) if self._silent else self._command, substeps=1)
        self._substeps += 1
        if self._clock_publisher and self._substeps * TIMESTEP_NS % TICK_NS == 0:
            self._tell_time()
        if self._substeps % SUBSTEPS == 0:
            self._judge()
        if self._substeps % self._sensor_every == 0:
            self._sense()

    def _tell_time(self) -> None:
        self._clock_publisher.publish(ClockMessage(clock=self._stamp()))

    def _stamp(self):
        return Time(nanoseconds=self._time).to_msg()

    # --- episodes

    def _next_layout(self, seed: int) -> tuple[Scene, Instruction]:
        """The first layout from ``seed`` on that has the goal of the instruction given, and the zones that it forbids.

        Where no layout has those zones, the first with the goal; where no instruction is given, that of ``seed``.
        """
        if not self._given:
            scene = draw_scene(seed)
            return scene, instructions.draw(scene, np.random.default_rng(seed))
        given = instructions.parse(self._given)
        scenes = (scene for scene in map(draw_scene, itertools.count(seed)) if scene.pad(given.goal))
        first = next(scenes)
        tried = itertools.chain([first], itertools.islice(scenes, LAYOUTS_TO_TRY))
        return next((scene for scene in tried if all(map(scene.zone, given.keep_out))), first), given

    def _begin(self, scene: Scene, instruction: Instruction) -> None:
        """Put the robot into ``scene``, at rest, and begin an episode there. ValueError: it has no such goal."""
        episode = Episode(scene, instruction, self._max_steps)
        if not self._over:
            self._end("reset", EpisodeEvent.UNKNOWN)
        self._simulator.reset(scene)
        self._rng = np.random.default_rng(scene.seed)
        self._command, self._commanded_at = np.zeros(2), 0
        self._substeps, self._behind = 0, 0
        # A fresh stamp: the new layout must not share one with the last message from the old layout.
        self._time = self._time + TIMESTEP_NS if self._publish_clock else self._seen
        self._episode, self._over, self._resume_at = episode, False, None
        self._episode_id = f"{scene.seed}-{uuid.uuid4().hex[:12]}"
        self._begun_at = time.time_ns()
        if self._clock_publisher:
            self._tell_time()
        self._sense()  # before START, so that whoever has heard of the episode can also see it
        self._announce(EpisodeEvent.START, scene=scene.to_json())
        if self._publish_instruction:
            self._instruction_publisher.publish(String(data=instruction.text))
        self.get_logger().info(f"layout {scene.seed}: {instruction.text}")

    def _judge(self) -> None:
        if self._over:
            return
        episode, was_broken = self._episode, bool(self._episode.broken)
        episode.judge(self._simulator.read(image=False).state)
        if episode.broken and not was_broken:
            self._announce(EpisodeEvent.VIOLATION_BEGIN, rule="; ".join(episode.broken))
        elif was_broken and not episode.broken:
            self._announce(EpisodeEvent.VIOLATION_END)
        if episode.over:
            self._end(episode.over, EpisodeEvent.TRUE if episode.success else EpisodeEvent.FALSE)
            self._resume_later()

    def _resume_later(self) -> None:
        if self._auto_reset:
            self._resume_at = self._time + int(self._reset_delay * 1e9)

    def _end(self, reason: str, success: int) -> None:
        self._over = True
        reached = EpisodeEvent.TRUE if self._episode.reached else EpisodeEvent.FALSE
        self._announce(EpisodeEvent.END, reason=reason, success=success, reached=reached)
        self.get_logger().info(
            f"layout {self._episode.scene.seed}: {'goal reached in' if reason == 'goal' else f'{reason} after'} "
            f"{self._episode.steps} steps, {self._episode.violations} of them in violation"
        )

    def _announce(
        self,
        kind: int,
        *,
        instruction: Instruction | None = None,
        success: int = EpisodeEvent.UNKNOWN,
        reached: int = EpisodeEvent.UNKNOWN,
        **more: str,
    ) -> None:
        self._event_publisher.publish(
            EpisodeEvent(
                header=self._header("odom"),
                kind=kind,
                episode=self._episode_id,
                instruction=(instruction or self._episode.instruction).text,
                seed=self._episode.scene.seed,
                success=success,
                reached=reached,
                steps=self._episode.steps,
                violations=self._episode.violations,
                **more,
            )
        )

    # --- what comes in

    def _on_command(self, message: TwistStamped) -> None:
        self._advance()  # the old command held until now
        command = np.array([message.twist.linear.x, message.twist.angular.z])
        if not np.isfinite(command).all():
            self.get_logger().warning(
                f"cmd_vel: linear.x {command[0]}, angular.z {command[1]}: not finite, the robot stops",
                throttle_duration_sec=1.0,
            )
            command = np.zeros(2)
        elif self._action_noise:
            command = command + self._rng.normal(0, self._action_noise, 2) * (ACTION_HIGH - ACTION_LOW) / 2
        self._command = np.clip(command, ACTION_LOW, ACTION_HIGH)
        self._commanded_at = min(Time.from_msg(message.header.stamp).nanoseconds or self._time, self._time)
        if self._silent:
            self.get_logger().warning(
                f"cmd_vel: stamped {(self._time - self._commanded_at) * 1e-9:.2f} s ago: ignored "
                f"(allowed: command_timeout, {self._timeout} s; does its sender have another clock?)",
                throttle_duration_sec=5.0,
            )

    def _on_instruction(self, text: str, stamp_ns: int) -> None:
        if stamp_ns < self._begun_at:
            return  # overtaken by a reset, whose instruction is newer
        waiting = self._over and self._resume_at is None
        if text == self._episode.instruction.text and not waiting:
            return
        self._advance()
        try:
            instruction = instructions.parse(text)
        except ValueError as error:
            self._give_up(error)
            self._resume_at = None  # nothing follows that would be judged against something else
            return
        self._given = text
        if self._over:
            if waiting:  # else the next layout is on its way, and whoever repeats himself must not put it off
                self._resume_later()
            return
        try:
            self._instruct(instruction)
        except ValueError as error:
            self._give_up(error)
            self._resume_later()  # in a layout that has the goal

    def _instruct(self, instruction: Instruction) -> None:
        """The episode goes on under ``instruction``: what the one before had broken is over, all at one stamp."""
        episode, before = self._episode, self._episode.instruction
        was_broken = bool(episode.broken)
        episode.instruct(instruction)
        if was_broken:
            self._announce(EpisodeEvent.VIOLATION_END, instruction=before)
        self._announce(EpisodeEvent.INSTRUCTION)
        if episode.broken:
            self._announce(EpisodeEvent.VIOLATION_BEGIN, rule="; ".join(episode.broken))

    def _give_up(self, why: ValueError) -> None:
        self.get_logger().warning(f"this episode can no longer be judged: {why}")
        if not self._over:
            self._end(f"cannot be judged: {why}", EpisodeEvent.UNKNOWN)

    def _on_reset(self, request: ResetEpisode.Request, response: ResetEpisode.Response) -> ResetEpisode.Response:
        self._advance()
        try:
            scene = draw_scene(request.seed)
            if request.instruction:
                instruction = instructions.parse(request.instruction)
            else:
                instruction = instructions.draw(scene, np.random.default_rng(request.seed))
            self._begin(scene, instruction)
        except ValueError as error:
            response.message = str(error)
            return response
        self._given = request.instruction
        response.success, response.instruction, response.scene = True, instruction.text, scene.to_json()
        return response

    # --- what goes out

    def _sense(self) -> None:
        reading = self._simulator.read()
        self._image_publisher.publish(self._image(reading))
        self._scan_publisher.publish(self._scan(reading))
        self._odometry_publisher.publish(self._odometry(reading))
        self._bumper_publisher.publish(Bool(data=reading.bumper))

    def _header(self, frame: str) -> Header:
        return Header(stamp=self._stamp(), frame_id=frame)

    def _image(self, reading: Reading) -> Image:
        pixels = reading.image
        if self._image_noise:
            noisy = pixels + self._rng.normal(0, self._image_noise, pixels.shape)
            pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        image = self._bridge.cv2_to_imgmsg(pixels, "rgb8")
        image.header = self._header("overhead_camera")
        return image

    def _scan(self, reading: Reading) -> LaserScan:
        ranges = reading.ranges
        if self._range_noise:
            ranges = np.maximum(ranges + self._rng.normal(0, self._range_noise, ranges.shape), 0).astype(np.float32)
        increment = 2 * math.pi / LIDAR_RAYS
        return LaserScan(
            header=self._header("base_link"),
            angle_min=0.0,
            angle_max=(LIDAR_RAYS - 1) * increment,
            angle_increment=increment,
            scan_time=self._sensor_every * TIMESTEP,
            range_min=0.0,
            range_max=LIDAR_RANGE,
            ranges=array.array("f", ranges.tobytes()),  # any other sequence is checked number by number
        )

    def _odometry(self, reading: Reading) -> Odometry:
        x, y, yaw = (
            reading.pose + self._rng.normal(0, self._odometry_noise, 3) if self._odometry_noise else reading.pose
        )
        message = Odometry(header=self._header("odom"), child_frame_id="base_link")
        message.pose.pose.position.x, message.pose.pose.position.y = float(x), float(y)
        message.pose.pose.orientation.z, message.pose.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        message.twist.twist.linear.x, message.twist.twist.angular.z = reading.forward_speed, reading.turn_rate
        return message


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or SIGHUP. Exit codes: 0 stopped, 2 a parameter was refused."""
    if helped(arguments, "sim_robot", __doc__, PARAMETERS, "-p seed:=7 -p auto_reset:=false"):
        return 0
    stop = signals.init(arguments)
    status = 0
    try:
        node = SimRobot()
        try:
            signals.spin(node, stop)
        finally:
            node.destroy_node()
    except ParameterException as error:
        print(f"sim_robot: {error}", file=sys.stderr)
        status = 2
    rclpy.try_shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
