import pytest

from tc_mmwm_core.interface.stopping import tells_to_stop

SAID = "stop|STOP! Stop!|please stop the robot now|Stop driving.|emergency stop|E-stop|Halt, please!|wait here|abort|"
SAID += "stop moving immediately|don't move|Do not move!|hold position|stay still"
NOT_SAID = "|please|robot|do not stop|stop at the red pad|drive to the red pad and stop|hold the puck|emergency exit|"
NOT_SAID += "stay out of the red zone|wait for the green pad|move|keep moving"


@pytest.mark.parametrize("text", SAID.split("|"))
def test_what_says_nothing_but_stop(text):
    assert tells_to_stop(text)


@pytest.mark.parametrize("text", NOT_SAID.split("|"))
def test_what_says_more_or_less(text):
    assert not tells_to_stop(text)
