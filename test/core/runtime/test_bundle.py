import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_bundle import ROBOT, tiny_files, tiny_manifest, write_tiny_bundle

from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.resources import resource, robot_file
from tc_mmwm_core.runtime.bundle import Bundle, BundleError, Calibration, write_bundle


@pytest.fixture
def copy(bundle, tmp_path):
    """A bundle that a test may break."""
    return shutil.copytree(bundle.path, tmp_path / "copy")


def edit_manifest(folder, **fields):
    content = json.loads((folder / "bundle.json").read_text()) | fields
    (folder / "bundle.json").write_text(json.dumps(content))


def test_written_bundle_loads_back(tmp_path):
    calibration = Calibration(
        alpha=0.05, delta=0.1, n_trajectories=400, dataset="ab12", method="conformal risk control"
    )
    written = write_tiny_bundle(tmp_path / "tiny", calibration=calibration)
    read = Bundle.load(tmp_path / "tiny")
    assert read.manifest == written.manifest
    assert read.manifest.calibration == calibration
    assert set(read.manifest.files) == set(tiny_files())
    assert read.identity.startswith("tiny@")
    assert read.step_duration == pytest.approx(0.2)
    assert json.loads((read.path / "bundle.json").read_text())["schema"] == 1


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    first = write_tiny_bundle(tmp_path / "tiny")
    second = write_tiny_bundle(tmp_path / "tiny", threshold=0.5)
    assert Bundle.load(tmp_path / "tiny").manifest.threshold == 0.5
    assert first.identity != second.identity
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_a_failed_write_keeps_the_old_bundle(tmp_path):
    write_tiny_bundle(tmp_path / "tiny")
    files = tiny_files()
    del files["screen.onnx"]
    with pytest.raises(BundleError, match=r"screen\.onnx"):
        write_bundle(tmp_path / "tiny", tiny_manifest(threshold=0.5), files)
    assert Bundle.load(tmp_path / "tiny").manifest.threshold == 0.25
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_a_bundle_that_cannot_be_put_in_place_keeps_the_old_one(tmp_path, monkeypatch):
    write_tiny_bundle(tmp_path / "tiny")
    rename = Path.rename

    def fail(path, target):
        if target == tmp_path / "tiny" and not path.name.endswith(".replaced"):
            raise OSError("no space left on device")
        return rename(path, target)

    monkeypatch.setattr("tc_mmwm_core.utils.files._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        write_tiny_bundle(tmp_path / "tiny", threshold=0.5)
    assert Bundle.load(tmp_path / "tiny").manifest.threshold == 0.25
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_missing_folder_and_missing_manifest_are_named(tmp_path):
    with pytest.raises(BundleError, match="nowhere: no such folder"):
        Bundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"bundle\.json: missing"):
        Bundle.load(tmp_path)


def test_missing_file_is_named(copy):
    (copy / "encode.onnx").unlink()
    with pytest.raises(BundleError, match=r"encode\.onnx: missing"):
        Bundle.load(copy)


def test_changed_file_is_named(copy):
    with (copy / "screen.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"screen\.onnx: sha256 is"):
        Bundle.load(copy)


def test_other_schema_is_refused_as_such(copy):
    edit_manifest(copy, schema=2)
    with pytest.raises(BundleError, match=r"'schema' is 2, this version reads 1"):
        Bundle.load(copy)


def test_wrong_field_of_the_manifest_is_named(copy):
    edit_manifest(copy, treshold=1.0)
    with pytest.raises(BundleError, match=r"unknown key 'treshold'; did you mean 'threshold'"):
        Bundle.load(copy)
    edit_manifest(copy, horizon=0)
    with pytest.raises(BundleError, match="'horizon' is 0"):
        Bundle.load(copy)


@pytest.mark.parametrize("name", ["../robot.yaml", "/etc/hostname", "sub/robot.yaml"])
def test_files_outside_the_folder_are_refused(copy, name):
    files = json.loads((copy / "bundle.json").read_text())["files"]
    edit_manifest(copy, files={**files, name: "0"})
    with pytest.raises(BundleError, match="only plain names are allowed"):
        Bundle.load(copy)


def test_manifest_and_robot_yaml_must_agree(tmp_path):
    interface = RobotInterface.load(ROBOT).to_dict() | {"rate": 20.0}
    with pytest.raises(BundleError, match=r"different robots: rate: 20\.0"):
        write_tiny_bundle(tmp_path / "tiny", interface=interface)


def test_check_lists_every_field_that_differs_and_lets_topics_be(bundle):
    content = yaml.safe_load(ROBOT.read_text())
    content["images"][0]["topic"] = "another/camera"
    content["images"][0]["max_age"] = 0.1
    bundle.check(RobotInterface.from_dict(content, "robot"))
    content["images"][0]["height"] = 96
    content["action"]["fields"][1]["limits"] = [-1.0, 1.0]
    content["sensors"][1]["fields"][0]["nan_as"] = 3.0
    with pytest.raises(BundleError) as error:
        bundle.check(RobotInterface.from_dict(content, "robot"))
    assert "images.overhead.height: 64" in str(error.value)
    assert "action.turn.limits: [-2.5, 2.5]" in str(error.value)
    assert "sensors.lidar.ranges.nan_as: None in 'navigation', 3.0 in 'navigation'" in str(error.value)
    assert "topic" not in str(error.value)


@pytest.mark.parametrize("name", ["navigation", "manipulation"])
def test_shipped_bundles_fit_the_shipped_robot_interfaces(name):
    Bundle.load(resource("bundles", name)).check(RobotInterface.load(robot_file(f"{name}.yaml")))
