"""The command line as a person meets it: in a process of its own, through the installed package."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tc_mmwm_core import cli
from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.resources import resource

ELSEWHERE = Path(__file__).parent  # `python -m` from the repository root would run the sources, not what is installed


def tc_mmwm(*arguments: str) -> subprocess.CompletedProcess:
    wide = {**os.environ, "COLUMNS": "1000"}  # argparse breaks lines, within words too
    command = [sys.executable, "-m", "tc_mmwm_core", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=wide, cwd=ELSEWHERE)


def test_help_lists_every_command_with_its_line():
    run = tc_mmwm("--help")
    assert run.returncode == 0
    for name in cli.commands():
        assert importlib.import_module(f"tc_mmwm_core.cli.{name}").HELP in run.stdout


@pytest.mark.parametrize("name", cli.commands())
def test_help_of_a_command_shows_an_example(name):
    run = tc_mmwm(name, "--help")
    assert run.returncode == 0
    assert f"tc-mmwm {name}" in run.stdout.split("examples:")[1]


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from tc_mmwm_core.cli import build_parser; build_parser()\n"
        "print({'torch', 'mujoco', 'onnxruntime', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_version_is_the_installed_one():
    version = tc_mmwm("--version")
    assert version.returncode == 0
    assert version.stdout.strip().count(".") == 2


def test_output_that_nobody_reads_any_more_is_no_error():
    """`tc-mmwm inspect ... | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tc_mmwm_core", "inspect", str(resource("bundles", "navigation"))]
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ELSEWHERE)
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, "")


def test_closed_output_is_no_error():
    command = [sys.executable, "-m", "tc_mmwm_core", "inspect", str(resource("bundles", "navigation"))]
    run = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, cwd=ELSEWHERE)
    assert (run.returncode, run.stderr) == (0, "")


def test_unknown_command_is_refused_with_the_known_ones():
    run = tc_mmwm("trian")
    assert run.returncode == 2
    assert "trian" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.fixture
def failing(monkeypatch):
    """Makes the one command ``fail`` raise the given error, within the real main()."""

    def install(error: Exception):
        def parser() -> argparse.ArgumentParser:
            result = argparse.ArgumentParser()
            result.add_argument("--debug", action="store_true")

            def run(args):
                raise error

            result.set_defaults(run_command=run, command="fail")
            return result

        monkeypatch.setattr(cli, "build_parser", parser)

    return install


@pytest.mark.parametrize("error", [ConfigError("robot.yaml: key 'rate' is missing"), FileNotFoundError(2, "gone", "x")])
def test_an_error_for_people_is_one_message(failing, capsys, error):
    failing(error)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == f"tc-mmwm fail: {error}\n"


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["collect", "--domain", "navigatoin", "--output", "nowhere"], "did you mean 'navigation'?"),
        (["evaluate", "--domain", "navigatoin"], "did you mean 'navigation'?"),
        (["evaluate", "--domain", "navigatoin", "--driver", "expert"], "did you mean 'navigation'?"),
        (["evaluate", "--driver", "exprt"], "driver 'exprt': navigation has planner, policy, random, expert,"),
        (["export", "nowhere", "--output", "bundle"], "give --data"),
    ],
)
def test_wrong_usage_is_one_message(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tc-mmwm {arguments[0]}: ") and told in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(failing):
    failing(ConfigError("robot.yaml: key 'rate' is missing"))
    with pytest.raises(ConfigError):
        cli.main(["--debug"])


def test_a_bug_is_not_dressed_up(failing):
    failing(KeyError("latent"))
    with pytest.raises(KeyError):
        cli.main([])


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(name):
    run = tc_mmwm("train", "--config", "none.yaml", "--data", "none", "--output", "none", "--device", name)
    assert run.returncode == 2
    assert f"argument --device: {name}: PyTorch" in run.stderr and "Traceback" not in run.stderr


def test_a_bundle_of_another_domain_is_refused_by_field(share):
    run = tc_mmwm("evaluate", "--bundle", str(share / "bundles" / "manipulation"), "--episodes", "1")
    assert run.returncode == 2
    assert "images" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--threshold", "nan"], "argument --threshold: nan is not a finite number"),
        (["--alpha", "5"], "argument --alpha: 5 is not a number between 0 and 1"),
        (["--delta", "0"], "argument --delta: 0 is not a number between 0 and 1"),
    ],
)
def test_a_bound_that_is_none_is_refused_before_anything_is_read(given, told, capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "none", "--output", "none", "--data", "none", *given])
    assert told in capsys.readouterr().err


def test_no_dataset_of_no_episodes_is_collected(tmp_path):
    run = tc_mmwm("collect", "--output", str(tmp_path / "d"), "--episodes", "-1")
    assert run.returncode == 2 and not (tmp_path / "d").exists()
    assert "argument --episodes: -1 is not a whole number above 0" in run.stderr
