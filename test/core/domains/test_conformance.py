"""What the protocol allows is let through. What it does not allow: test_check.py, test_collect.py, test_labels.py."""

import dataclasses

import numpy as np
import pytest
from tiny_domain import GOAL, Dot

from tc_mmwm_core.domains.base import DomainError
from tc_mmwm_core.domains.conformance import check_advice, check_judgement, check_self_filter, disagreeing

STATES = np.zeros((3, 4), np.float32)


def test_what_nobody_knows_may_be_nan_where_the_protocol_says_so():
    judgement = Dot().judge({"square": [0.5, 0.5]}, STATES, GOAL)
    unseen = np.full((3, 2, 1, 2), np.nan, np.float32)
    check_judgement(dataclasses.replace(judgement, elsewhere=unseen), Dot(), STATES, GOAL, others=2)
    with pytest.raises(DomainError, match=r"elsewhere float32 \[3, 2, 1, 2\], float32 \[3, 1, 1, 2\] is needed"):
        check_judgement(dataclasses.replace(judgement, elsewhere=unseen), Dot(), STATES, GOAL, others=1)
    check_advice(np.full((3, 2), np.nan), Dot(), STATES, GOAL, actions=2)
    check_advice(None, Dot(), STATES, GOAL, actions=2)
    check_self_filter(None, Dot(), np.zeros((3, 8, 8, 3), np.uint8))


def test_a_violation_that_nobody_judged_disagrees_with_none():
    found = disagreeing(np.int8([0, 0, 1, 1, -1, -1]), np.float32([-1, 0.5, 0.5, 0, 0.5, -1]))
    assert found.tolist() == [False, True, False, True, False, False]
