import pytest

from tc_mmwm_core.training.figures import training_figure


def record(step, stage):
    return {
        "step": step,
        "stage": stage,
        "loss": 10.0 / step,
        "weighted/state": 5.0 / step,
        "raw/sigreg_fused": 1.0,
        "valid/effective_rank_fused": float(step) if step % 2 else None,  # validated every other step
        "valid/probe_r2_fused": 0.5,
        "valid/probe_r2_visual": 0.4,
        "alpha/vision": 0.5,
        "alpha/language": 0.3,
        "alpha/sensor": 0.2,
    }


def test_every_panel_shows_its_metrics_and_where_stages_begin():
    records = [record(step, "reconstruction" if step < 4 else "full") for step in range(1, 9)]
    losses, rank, probe, sigreg, alpha = training_figure(records).get_axes()
    lines = {line.get_label(): line for line in losses.get_lines()}
    assert list(lines["total"].get_ydata()) == [10.0 / step for step in range(1, 9)]
    assert list(lines["state"].get_xdata()) == list(range(1, 9))
    assert list(rank.get_lines()[0].get_xdata()) == [1, 3, 5, 7]
    assert {"fused", "visual"} <= {line.get_label() for line in probe.get_lines()}
    assert {"fused", "Gaussian"} <= {line.get_label() for line in sigreg.get_lines()}
    assert {"vision", "language", "sensor"} <= {line.get_label() for line in alpha.get_lines()}
    for ax in (losses, rank, probe, sigreg, alpha):
        assert {text.get_text().strip() for text in ax.texts} == {"reconstruction", "full"}
        assert {tuple(line.get_xdata()) for line in ax.get_lines()} >= {(1, 1), (4, 4)}


def test_it_can_be_written_as_a_picture(tmp_path):
    training_figure([record(1, "full"), record(2, "full")]).savefig(tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_a_panel_without_metrics_says_so_and_no_metrics_at_all_are_refused():
    axes = training_figure([{"step": 1, "stage": "full", "loss": 1.0}]).get_axes()
    assert ["not recorded" in [text.get_text() for text in ax.texts] for ax in axes] == [False, True, True, True, True]
    with pytest.raises(ValueError, match="no metrics"):
        training_figure([])
