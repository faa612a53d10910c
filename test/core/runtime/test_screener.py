import numpy as np
import onnx
import pytest
from tiny_bundle import HORIZON, TOKENS, tiny_files, tiny_manifest

from tc_mmwm_core.runtime.bundle import Bundle, BundleError, write_bundle
from tc_mmwm_core.runtime.screener import Instruction, InstructionError, ProviderError, Screener, ToldToStop


def test_graphs_run_by_their_verbs(screener, make_step):
    instruction = screener.instruct("drive slow")
    assert instruction.mask.sum() == 2
    np.testing.assert_array_equal(instruction.z_l, [[1, 0, 0, 0]])
    scene = screener.encode(make_step(bumper=1.0), instruction)
    np.testing.assert_array_equal(scene.latent, [[1, 0, 127, 0]])
    np.testing.assert_array_equal(scene.context, [[1, 0, 0, 0, 1]])
    assert scene.weights.sum() == pytest.approx(1.0)
    assert scene.proposal.shape == (1, HORIZON, 2)
    np.testing.assert_array_equal(scene.memory, [[[127]]])
    np.testing.assert_array_equal(scene.goal, [0])


def test_what_was_seen_before_is_in_the_next_scene(screener, make_step):
    instruction = screener.instruct("drive")
    before = screener.encode(make_step(), instruction)
    after = screener.encode(make_step(), instruction, before.memory)
    assert (before.latent[0, 3], after.latent[0, 3]) == (0, 127)


def test_screening_is_worked_out_by_hand_for_any_number_of_candidates(screener, make_step):
    scene = screener.encode(make_step(), screener.instruct("slow"))
    for count in (1, 7, 256):
        actions = np.random.default_rng(count).uniform(-1, 1, (count, HORIZON, 2)).astype(np.float32)
        rollouts = screener.screen(scene, actions)
        np.testing.assert_allclose(rollouts.violation, actions[..., 0], atol=1e-6)
        gain = actions[..., 0] - 0.1 * actions[..., 1] ** 2
        np.testing.assert_allclose(rollouts.progress, np.cumsum(gain, 1), atol=1e-5)


def test_other_words_other_verdict(screener, make_step):
    step, right = make_step(), np.full((1, HORIZON, 2), [0.0, 1.0], np.float32)
    slow, never_right = (screener.encode(step, screener.instruct(text)) for text in ("drive slow", "drive right"))
    assert screener.screen(slow, right).violation.max() == 0
    assert screener.screen(never_right, right).violation.max() == 1


def test_an_instruction_is_read_once(screener):
    assert screener.instruct("drive") is screener.instruct("drive")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \t ", "empty"),
        ("drive " * 2000, r"12000 characters, at most 1000 allowed"),
        ("drive\nslow", r"character '\\n' is not printable"),
        ("drive \u202e slow", "not printable"),
        ("drive " * (TOKENS + 1), f"{TOKENS + 1} tokens, at most {TOKENS} allowed"),
        ("drive backwards", "does not know 'backwards'"),
    ],
)
def test_instructions_that_cannot_be_read_are_refused_with_what_is_allowed(screener, text, message):
    with pytest.raises(InstructionError, match=message):
        screener.instruct(text)


@pytest.mark.parametrize(
    "text",
    ["stop", " Stop!\n", "STOP, STOP, STOP", "Stop now.", "don't move", "don\u2019t move", "Do not  move", "wait…"],
)
def test_to_stop_is_no_instruction_to_plan_under(screener, text):
    with pytest.raises(ToldToStop, match="told to stop"):
        screener.instruct(text)


def test_words_for_stopping_within_an_instruction_are_the_models(bundle, make_step):
    """A tokenizer that knows every word, as the shipped one does."""
    screener = Screener(bundle)
    screener._unknown = None
    for text in ("stop on drive", "drive and never stop", "stop the drive now", "drive stop"):
        assert isinstance(screener.instruct(text), Instruction)


def test_the_tokenizers_own_truncation_is_off(screener):
    assert screener.instruct("drive " * TOKENS).mask.sum() == TOKENS  # the file asks for 4


def test_provider_that_is_not_there_is_refused_by_name(bundle):
    with pytest.raises(ProviderError, match="TensorrtExecutionProvider is not available"):
        Screener(bundle, provider="tensorrt")


def test_short_and_full_provider_names_are_the_same(bundle):
    assert Screener(bundle, "CPU").provider == Screener(bundle, "CPUExecutionProvider").provider


def write_changed(folder, name: str, change, **manifest: object) -> Bundle:
    files = tiny_files()
    model = onnx.load_from_string(files[name])
    change(model.graph)
    return write_bundle(folder, tiny_manifest(**manifest), files | {name: model.SerializeToString()})


def test_graph_with_another_shape_than_the_manifest_is_named(tmp_path):
    def shorten(graph):
        for node in [*graph.input, *graph.output]:
            if node.name in ("actions", "violation", "progress"):
                node.type.tensor_type.shape.dim[1].dim_value = HORIZON + 1

    bundle = write_changed(tmp_path / "tiny", "screen.onnx", shorten)
    with pytest.raises(BundleError, match=r"screen\.onnx: input 'actions' is .*4.* the manifest needs .*3"):
        Screener(bundle)


def test_graph_with_a_fixed_number_of_candidates_is_refused(tmp_path):
    def fix(graph):
        graph.input[2].type.tensor_type.shape.dim[0].dim_value = 64

    with pytest.raises(BundleError, match="input 'actions'"):
        Screener(write_changed(tmp_path / "tiny", "screen.onnx", fix))


def test_graph_without_an_expected_input_is_named(tmp_path):
    def rename(graph):
        graph.output[3].name = graph.node[-3].output[0] = "plan"

    with pytest.raises(BundleError, match=r"output 'proposal' is missing; output 'plan' is unknown"):
        Screener(write_changed(tmp_path / "tiny", "encode.onnx", rename))


def test_a_graph_from_before_goals_were_told_runs_where_none_is_asked_for(tmp_path, make_step):
    def forget(graph):
        del graph.output[5], graph.node[-1]

    older = Screener(write_changed(tmp_path / "older", "encode.onnx", forget))
    scene = older.encode(make_step(), older.instruct("drive"))
    assert scene.goal is None and scene.memory.shape == (1, 1, 1)
    with pytest.raises(BundleError, match=r"encode\.onnx: output 'goal' is missing"):
        Screener(write_changed(tmp_path / "asked", "encode.onnx", forget, goal_threshold=-0.1))


def test_file_that_is_no_graph_is_named(tmp_path):
    bundle = write_bundle(tmp_path / "tiny", tiny_manifest(), tiny_files() | {"encode.onnx": b"not a graph"})
    with pytest.raises(BundleError, match=r"encode\.onnx: onnxruntime cannot load it"):
        Screener(bundle)


def test_file_that_is_no_tokenizer_is_named(tmp_path):
    bundle = write_bundle(tmp_path / "tiny", tiny_manifest(), tiny_files() | {"tokenizer.json": b"{}"})
    with pytest.raises(BundleError, match=r"tokenizer\.json: cannot be read"):
        Screener(bundle)
