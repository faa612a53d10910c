import io
import re
import time

from tc_mmwm_core.training.progress_bar import ProgressBar


def test_shows_stage_steps_losses_samples_a_second_and_time_left():
    stream = io.StringIO()
    with ProgressBar("full", total_steps=10, first_step=6, stream=stream) as bar:
        for _ in range(2):
            time.sleep(0.05)
            bar.update(samples=32, losses={"total": 1.23456})
        bar.write("checkpoint written")
    assert "checkpoint written\n" in stream.getvalue()
    last = stream.getvalue().strip().split("\r")[-1]
    assert last.startswith("full: ")
    assert "8/10" in last
    assert "total=1.23" in last
    rate = float(re.search(r"samples/s=(\d+)", last).group(1))
    assert 0 < rate <= 640  # 64 samples in 0.1 s and what the machine adds
    assert re.search(r"<\d\d:\d\d", last)


def test_a_log_file_is_not_flooded():
    stream = io.StringIO()
    with ProgressBar("full", total_steps=1000, stream=stream) as bar:
        for _ in range(1000):
            bar.update(samples=1, losses={"total": 1.0})
    assert stream.getvalue().count("\r") < 10
