"""Start the planner, and where asked for the recorder and the simulated robot.

    ros2 launch tc_mmwm_ros planner.launch.py model:=my_bundle
    ros2 launch tc_mmwm_ros planner.launch.py model:=my_bundle robot:=other_topics.yaml params_file:=my_planner.yaml
    ros2 launch tc_mmwm_ros planner.launch.py sim:=true record:=true

``--show-args`` describes all arguments.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_path
from launch import LaunchContext, LaunchDescription, Substitution
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

PACKAGE = "tc_mmwm_ros"
TRUTH = ["true", "false"]


class PlannerParameters(Substitution):
    """In ``folder``: <name of the bundle's folder>.yaml if it exists, else default.yaml."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def describe(self) -> str:
        return f"'{self.folder}/' + name of the bundle's folder or 'default' + '.yaml'"

    def perform(self, context: LaunchContext) -> str:
        path = self.folder / f"{Path(context.launch_configurations['model']).resolve().name}.yaml"
        return str(path if path.is_file() else self.folder / "default.yaml")


def generate_launch_description() -> LaunchDescription:
    """Arguments, environment, nodes, and the transitions that bring the planner up."""
    share = get_package_share_path(PACKAGE)

    def flag(name: str) -> ParameterValue:
        return ParameterValue(LaunchConfiguration(name), value_type=bool)

    arguments = [
        DeclareLaunchArgument(
            "model",
            default_value=str(share / "bundles" / "navigation"),
            description="Model bundle: the folder that holds bundle.json",
        ),
        DeclareLaunchArgument(
            "robot",
            default_value=[LaunchConfiguration("model"), "/robot.yaml"],
            description="Robot interface (YAML): which topics map to which inputs and outputs of the model; "
            "by default the one in the bundle, which it was trained for",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PlannerParameters(share / "config" / "planner"),
            description="Parameters of the nodes (YAML); robot, model, use_sim_time, autostart and bag here win over "
            "it. By default config/planner/<name of the bundle's folder>.yaml where there is one, else default.yaml",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and relative topics"),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=TRUTH,
            description="Follow /clock instead of the system's time; with sim:=true the simulated robot publishes it",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            choices=TRUTH,
            description="Configure and activate the planner; otherwise `ros2 lifecycle set /planner` does",
        ),
        DeclareLaunchArgument(
            "record", default_value="false", choices=TRUTH, description="Record the robot interface's topics to MCAP"
        ),
        DeclareLaunchArgument(
            "bag",
            default_value="",
            description="With record:=true, the folder of the bag, which must not hold anything yet; empty: as in "
            "params_file, or else rosbag2_<date>-<time> in the working directory",
        ),
        DeclareLaunchArgument(
            "sim", default_value="false", choices=TRUTH, description="Start the simulated differential-drive robot"
        ),
        DeclareLaunchArgument(
            "transports",
            default_value=os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT"),
            description="FASTDDS_BUILTIN_TRANSPORTS of all nodes. LARGE_DATA carries best-effort images beyond 512 KB, "
            "but only between nodes that all use it: set it for the camera's driver too",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Log level of all nodes",
        ),
    ]
    environment = [
        SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", LaunchConfiguration("transports")),
        # drawing without a screen needs EGL
        SetEnvironmentVariable("MUJOCO_GL", EnvironmentVariable("MUJOCO_GL", default_value="egl")),
    ]

    params_file, namespace = LaunchConfiguration("params_file"), LaunchConfiguration("namespace")
    log_level = ["--log-level", LaunchConfiguration("log_level")]
    robot = ParameterValue(LaunchConfiguration("robot"), value_type=str)
    model = ParameterValue(LaunchConfiguration("model"), value_type=str)

    planner = LifecycleNode(
        package=PACKAGE,
        executable="planner",
        name="planner",
        namespace=namespace,
        parameters=[
            params_file,
            # The planner's own autostart stays out of it: bringing it up is ours, where it is asked for.
            {"robot": robot, "model": model, "use_sim_time": flag("use_sim_time"), "autostart": False},
        ],
        ros_arguments=log_level,
        output="screen",
    )

    def recorder(context: LaunchContext) -> list[Node]:
        bag = context.launch_configurations["bag"]
        # an empty one would win over params_file
        output = {"output": ParameterValue(bag, value_type=str)} if bag else {}
        return [
            Node(
                package=PACKAGE,
                executable="recorder",
                name="recorder",
                namespace=namespace,
                parameters=[params_file, {"robot": robot, "use_sim_time": flag("use_sim_time")} | output],
                ros_arguments=log_level,
                output="screen",
            )
        ]

    record = OpaqueFunction(function=recorder, condition=IfCondition(LaunchConfiguration("record")))
    sim_robot = Node(
        package=PACKAGE,
        executable="sim_robot",
        name="sim_robot",
        namespace=namespace,
        parameters=[params_file, {"publish_clock": flag("use_sim_time")}],  # it makes the time that the others follow
        ros_arguments=log_level,
        output="screen",
        condition=IfCondition(LaunchConfiguration("sim")),
    )

    autostart = IfCondition(LaunchConfiguration("autostart"))

    def transition(to: int) -> EmitEvent:
        change = ChangeState(lifecycle_node_matcher=matches_action(planner), transition_id=to)
        return EmitEvent(event=change, condition=autostart)

    bring_up = [
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=planner,
                start_state="configuring",
                goal_state="inactive",
                entities=[transition(Transition.TRANSITION_ACTIVATE)],
                handle_once=True,  # configured again by hand, it waits to be activated by hand
            )
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=planner,
                start_state="configuring",
                goal_state="unconfigured",
                entities=[
                    LogInfo(
                        msg="The planner refused its configuration and says why above. Fix it and restart, or set its "
                        "parameters and call `ros2 lifecycle set /planner configure`."
                    )
                ],
            )
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=planner,
                start_state="activating",
                goal_state="inactive",
                entities=[
                    LogInfo(
                        msg="The planner refused to become active and says why above. It publishes nothing. Fix it and "
                        "call `ros2 lifecycle set /planner activate`."
                    )
                ],
            )
        ),
        transition(Transition.TRANSITION_CONFIGURE),
    ]
    return LaunchDescription([*arguments, *environment, sim_robot, record, planner, *bring_up])
