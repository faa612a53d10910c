"""The model bundle: a folder with ONNX graphs and ``bundle.json``, checked before anything in it is trusted.

See "Contract 3" in ``docs/architecture.md``. Nothing is pickled: JSON, YAML and ONNX only.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from tc_mmwm_core import config
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.utils.files import put_in_place, sha256

SCHEMA = 1
MANIFEST = "bundle.json"
REQUIRED = ("robot.yaml", "tokenizer.json", "language.onnx", "encode.onnx", "screen.onnx")


class BundleError(ValueError):
    """A bundle is missing, broken, of another schema, or made for another robot."""


class Calibration(config.Config):
    """What a threshold rests on; see :mod:`tc_mmwm_core.training.calibration`.

    In the words of the threshold on violations; of that on goals, a sequence whose goal is there stands for a violating
    one, and not to see it for accepting one.
    """

    alpha: float = Field(gt=0, lt=1)  # of a trajectory's violating sequences, on average over trajectories, at most
    delta: float = Field(gt=0, lt=1)  # this share is accepted, with confidence 1 - delta
    n_trajectories: int = Field(ge=1)
    dataset: str  # digest of each dataset given, trained on in part perhaps, with a comma between
    method: str
    # What of the calibration set itself came of it; None: not told by the version that made the bundle.
    sequences: int | None = Field(None, ge=1)  # violating ones
    empirical_miss: float | None = Field(None, ge=0, le=1)  # what alpha bounds
    empirical_false_alarm: float | None = Field(None, ge=0, le=1)  # share of all complying sequences rejected


class Training(config.Config):
    """How the weights came about: enough to train them again."""

    config: str  # the resolved YAML, as text
    seed: int
    revision: str  # git revision of the code
    unfinished: str | None = None  # how far it had come, where it had not ended


class SensorNormalisation(config.Config):
    """What ``encode.onnx`` does to the raw sensor vector; here to be read, it is not applied again."""

    mean: list[float]
    std: list[float]


class BundleManifest(config.Config):
    """``bundle.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    name: str = Field(min_length=1)
    created: str  # ISO 8601, UTC
    interface: dict[str, Any]  # RobotInterface.to_dict() of the robot that it was trained for
    latent: int = Field(ge=1)  # D, size of the latent state
    context: int = Field(ge=1)  # C, size of what the heads see beside the imagined latents
    horizon: int = Field(ge=1)  # K, latent steps imagined
    frame_skip: int = Field(ge=1)  # control periods that the action of one latent step lasts
    max_tokens: int = Field(ge=1)  # L, tokens of an instruction, padding included
    modalities: list[str] = Field(["vision", "language", "sensor"])  # in the order of encode.onnx's weights
    threshold: float = Field(allow_inf_nan=False)  # tau: accepted while max over k of violation <= tau
    calibration: Calibration | None = None  # None: the threshold was set, not calibrated
    # The goal counts as in view where the best place's progress is above it; None: nobody knows.
    goal_threshold: float | None = Field(None, allow_inf_nan=False)
    # Of a trajectory's sequences whose goal is there, at most alpha begin where it is not seen.
    goal_calibration: Calibration | None = None
    progress_taught: bool = True  # False: no oracle told how far it is to the goal, so progress ranks nothing
    normalisation: SensorNormalisation | None = None
    training: Training
    versions: dict[str, str] = Field({})  # packages that made it
    files: dict[str, str] = Field({})  # name -> sha256 of every other file


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest, files and interface have been checked."""

    path: Path
    manifest: BundleManifest
    interface: RobotInterface
    identity: str  # name and short hash of the manifest, which holds the hashes of all else: "navigation@1f3a9c2e"

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and verify the bundle in folder ``path``.

        Raises:
            BundleError: names the file and what is wrong: missing, another sha256, another schema, a wrong field.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleError(f"{path}: no such folder; a bundle is a folder with {MANIFEST} in it")
        if not (path / MANIFEST).is_file():
            raise BundleError(f"{path / MANIFEST}: missing, so {path} is no model bundle")
        _check_schema(path / MANIFEST)
        try:
            manifest = config.load(path / MANIFEST, BundleManifest)
        except config.ConfigError as error:
            raise BundleError(str(error)) from None
        _check_files(path, manifest)
        try:
            interface = RobotInterface.load(path / "robot.yaml")
            declared = RobotInterface.from_dict(manifest.interface, f"{path / MANIFEST}: interface")
        except config.ConfigError as error:
            raise BundleError(str(error)) from None
        differing = declared.differences(interface)
        if differing:
            raise BundleError(f"{path}: {MANIFEST} and robot.yaml describe different robots: {'; '.join(differing)}")
        return cls(path, manifest, interface, f"{manifest.name}@{sha256([path / MANIFEST])[:8]}")

    def check(self, interface: RobotInterface) -> None:
        """Refuse a robot that the model was not trained for.

        What may differ from robot to robot (topics, ages, rate limits, ...) is said by RobotInterface.differences.

        Raises:
            BundleError: lists each field that differs, with the bundle's value and the robot's.
        """
        differing = self.interface.differences(interface)
        if differing:
            lines = "\n".join(f"  {line}" for line in differing)
            raise BundleError(f"{self.path}: trained for another robot interface; the bundle's values first:\n{lines}")

    @property
    def step_duration(self) -> float:
        """Seconds that one latent step lasts."""
        return self.manifest.frame_skip / self.interface.rate

    @property
    def sensor_std(self) -> np.ndarray:
        """Each reading's standard deviation in training, float32 [Ds]. BundleError: the manifest does not tell it."""
        if self.manifest.normalisation is None:
            raise BundleError(f"{self.path / MANIFEST}: has no 'normalisation', which scales sensor noise")
        return np.array(self.manifest.normalisation.std, np.float32)


def write_bundle(directory: str | Path, manifest: BundleManifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """Write a bundle to ``directory``, replacing one that is there, and return it as loaded back.

    ``manifest.files`` is filled in here. Everything is written and verified under a temporary name beside
    ``directory`` and then renamed, so that nobody ever sees half a bundle, and a kill leaves the old one or the new.

    Raises:
        BundleError: what was written does not load; ``directory`` is as before.
        OSError: it cannot be written, or not be renamed; so it is then.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        fresh = staging / directory.name
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())
        complete = manifest.model_copy(update={"files": {name: sha256([fresh / name]) for name in sorted(files)}})
        text = json.dumps(complete.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False)
        (fresh / MANIFEST).write_text(text + "\n", encoding="utf-8")
        Bundle.load(fresh)
        put_in_place(fresh, directory)
    finally:  # the old bundle goes with it
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle.load(directory)


def _check_schema(path: Path) -> None:
    """A newer schema is refused as such, not by a list of unknown keys."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("schema")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError):
        return  # config.load says what is wrong
    if found != SCHEMA:
        raise BundleError(f"{path}: 'schema' is {found!r}, this version reads {SCHEMA}; export the bundle again")


def _check_files(path: Path, manifest: BundleManifest) -> None:
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST}: 'files' does not list {name}")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"{path / MANIFEST}: 'files' lists {name!r}; only plain names are allowed")
        if not (path / name).is_file():
            raise BundleError(f"{path / name}: missing, though {MANIFEST} lists it")
        found = sha256([path / name])
        if found != expected:
            raise BundleError(f"{path / name}: sha256 is {found[:12]}…, {MANIFEST} says {expected[:12]}…")
