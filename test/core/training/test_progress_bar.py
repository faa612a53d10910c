import io
import re
import time

from tc_mmwm_core.training.progress_bar import ProgressBar


def test_shows_stage_steps_losses_samples_a_second_and_time_left():
    stream = io.StringIO()
    metrics = {"loss": 1.23456, "raw/state": 9.0, "gradient_norm": 8.0}
    metrics |= {f"weighted/{name}": value for name, value in {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}.items()}
    with ProgressBar("full", steps=10, first=6, stream=stream) as bar:
        for _ in range(2):
            time.sleep(0.05)
            bar.update(metrics, samples=32)
    last = stream.getvalue().strip().split("\r")[-1]
    assert last.startswith("full: ")
    assert "8/10" in last
    assert "loss=1.23, b=0.4, d=0.3, c=0.2, samples/s=" in last
    rate = float(re.search(r"samples/s=(\d+)", last).group(1))
    assert 0 < rate <= 640  # 64 samples in 0.1 s and what the machine adds
    assert re.search(r"<\d\d:\d\d", last)


def test_a_log_file_is_not_flooded():
    stream = io.StringIO()
    with ProgressBar("full", steps=1000, stream=stream) as bar:
        for _ in range(1000):
            bar.update({"loss": 1.0}, samples=1)
    assert stream.getvalue().count("\r") < 10
