# Source this file (bash) to work in the environment of `make setup` by hand: ros2-style nodes, tc-mmwm, pytest.
_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$_root/.venv/bin/activate"
if [[ -d "$VIRTUAL_ENV/share/rclpy" ]]; then # ROS 2 from wheels: the venv is its only prefix
    unset PYTHONPATH
    export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
fi
if [[ -f "$_root/install/local_setup.bash" ]]; then
    source "$_root/install/local_setup.bash"
fi
unset _root
export MUJOCO_GL="${MUJOCO_GL:-egl}" # OSMesa drew garbage, GLFW needs a screen
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
