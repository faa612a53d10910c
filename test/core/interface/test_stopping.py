import pytest

from tc_mmwm_core.interface.stopping import FILLERS, STOPPING, tells_to_stop

SAID = "stop|STOP! Stop!|please stop the robot now|Stop driving.|emergency stop|E-stop|Halt, please!|wait here|abort|"
SAID += "stop moving immediately|don't move|Do not move!|hold position|stay still|stop! halt!|freeze, don't move|brake|"
SAID += "don\u2019t move the arm|cease all motion|stop the motors|stop right there|hold it|stop stop stop|stop...halt|"
SAID += "EMERGENCY_STOP|no, wait|whoa, that's enough|stop what you're doing|stay where you are|hold your position|"
SAID += "stop and don't go|never mind, stop|I want you to stop|wait a moment|shut down the robot|emergency!|stop all|"
SAID += "stop all robots|stop the robot's arm|stop right away|stop driving forward|stop, thanks|full stop|stop already|"
SAID += "come to a stop|make it stop|cut the power|abort the current task|halt operation|stop the program|wait for me|"
SAID += "do not proceed|don't move anymore|danger, stop|stop this instant"
NOT_SAID = "|please|robot|do not stop|stop at the red pad|drive to the red pad and stop|hold the puck|emergency exit|"
NOT_SAID += "stay out of the red zone|wait for the green pad|move|keep moving|never stop near green|don't stop|"
NOT_SAID += "go to the blue pad, don't move through red|don't move the red block|never stop moving|wait, go on|"
NOT_SAID += "hold on to it|stop when you are there|stop if you see the red zone|don't wait|stopping|nonstop|"
NOT_SAID += "go right to the robot at once|help|go forward|wait for me at the pad|stay away from the arm|"
NOT_SAID += "stop turning at the pad"


@pytest.mark.parametrize("text", SAID.split("|"))
def test_what_says_nothing_but_stop(text):
    assert tells_to_stop(text)


@pytest.mark.parametrize("text", NOT_SAID.split("|"))
def test_what_says_more_or_less(text):
    assert not tells_to_stop(text)


def test_every_word_for_stopping_is_known_alone_and_no_filler_is():
    assert all(map(tells_to_stop, STOPPING))
    assert not any(map(tells_to_stop, FILLERS)) and not tells_to_stop(" ".join(FILLERS))
