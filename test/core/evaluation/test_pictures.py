"""The picture of drives and decisions."""

import numpy as np
import pytest

from tc_mmwm_core.evaluation.pictures import ACCEPTED, CHOSEN, PATH_COLOURS, REJECTED, DecisionPicture, Drive, Layout
from tc_mmwm_core.evaluation.pictures import draw_layouts as draw

cv2 = pytest.importorskip("cv2")


def layout(decision=True):
    angles = np.linspace(-1, 1, 20)
    reach = np.linspace(0, 1.2, 6)
    paths = np.stack([reach * np.cos(angles)[:, None], reach * np.sin(angles)[:, None]], -1)
    shown = DecisionPicture(np.full((64, 64, 3), 200, np.uint8), paths, np.arange(20) < 10, 3)
    drive = Drive(np.array([[-1.0, -1.0], [0.0, 0.5], [1.0, 1.0]]), "reached in 30 steps", shown if decision else None)
    return Layout("layout 1", np.full((320, 320, 3), 200, np.uint8), [drive, drive])


def shows(picture, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(picture[..., ::-1].astype(int) - rgb).max(-1) < 40).sum() > 20


def test_shows_paths_and_verdicts(tmp_path):
    file = tmp_path / "picture.png"
    draw([layout(), layout()], ["drive to the green pad", "go to the red pad"], 1.68, file)
    picture = cv2.imread(str(file))
    for colour in (*PATH_COLOURS[:2], ACCEPTED, REJECTED, CHOSEN):
        assert shows(picture, colour), colour
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_drive_without_a_decision_is_drawn_without_candidates(tmp_path):
    draw([layout(decision=False)], ["one", "other"], 1.68, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_missing_drives_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 drives each"):
        draw([layout()], ["one", "two", "three"], 1.68, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
