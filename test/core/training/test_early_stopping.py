import math

from tc_mmwm_core.training.early_stopping import EarlyStopping, EarlyStoppingConfig


def test_stops_after_patience_validations_without_improvement():
    stopping = EarlyStopping(EarlyStoppingConfig(patience=2))
    seen = [(stopping.update(loss), stopping.stop) for loss in (3.0, 2.0, 2.5, 1.0, 1.0, 1.5)]
    assert seen == [(True, False), (True, False), (False, False), (True, False), (False, False), (False, True)]
    assert stopping.best == 1.0


def test_an_improvement_too_small_does_not_count_but_small_ones_add_up():
    stopping = EarlyStopping(EarlyStoppingConfig(patience=5, least_improvement=0.5))
    assert [stopping.update(loss) for loss in (3.0, 2.7, 2.4)] == [True, False, True]


def test_a_loss_that_is_not_finite_is_never_the_best():
    stopping = EarlyStopping(EarlyStoppingConfig(patience=2))
    assert not stopping.update(math.nan)
    assert not stopping.update(-math.inf)
    assert stopping.stop


def test_never_stops_without_patience():
    stopping = EarlyStopping(EarlyStoppingConfig())
    for _ in range(100):
        stopping.update(1.0)
    assert not stopping.stop


def test_goes_on_where_it_was_saved():
    stopping = EarlyStopping(EarlyStoppingConfig(patience=3))
    for loss in (1.0, 2.0, 2.0):
        stopping.update(loss)
    resumed = EarlyStopping(EarlyStoppingConfig(patience=3))
    resumed.load_state_dict(stopping.state_dict())
    assert not resumed.stop
    assert not resumed.update(1.0)
    assert resumed.stop
