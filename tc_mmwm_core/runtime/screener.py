"""The three ONNX graphs of a bundle by their verbs: instruct (language), encode, screen.

Inputs are NumPy arrays in CPU memory, which ONNX Runtime reads in place, and outputs are a few kilobytes: binding
buffers by hand (io_binding) saves nothing that could be measured here. What does not depend on the candidates is
computed once per decision inside ``screen.onnx``, and the instruction once per text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

# onnxruntime: the field's standard for running exported models on any processor, without the training framework.
import onnxruntime

# tokenizers: HuggingFace's own; the one reader of tokenizer.json that is sure to agree with training.
from tokenizers import Tokenizer

from tc_mmwm_core.interface.stopping import tells_to_stop
from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.runtime.bundle import Bundle, BundleError

MAX_CHARACTERS = 1000
REMEMBERED_INSTRUCTIONS = 32

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class ProviderError(RuntimeError):
    """The execution provider asked for is not the one that would run."""


class InstructionError(ValueError):
    """An instruction cannot be read: empty, too long, not printable, or with words that the tokenizer does not know."""


class ToldToStop(InstructionError):
    """There is nothing to plan for: the instruction is to stop."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """An instruction as the model hears it; made once per text."""

    text: str
    mask: np.ndarray  # bool [1, L], true where a token stands
    words: np.ndarray  # float32 [1, L, 2 E], word features
    z_l: np.ndarray  # float32 [1, D]


@dataclass(frozen=True, eq=False)
class Scene:
    """What the model makes of one observation under one instruction; made once per decision."""

    latent: np.ndarray  # float32 [1, D], z_t
    context: np.ndarray  # float32 [1, C], all that the heads see beside latents: z_l, u_t, field, bodies' places
    weights: np.ndarray  # float32 [1, M], α of each modality, in the order of the bundle's `modalities`
    proposal: np.ndarray  # float32 [1, K, A], the policy's own sequence, normalised
    memory: np.ndarray  # float32 [1, P, F], the view as remembered after this observation
    goal: np.ndarray | None = None  # float32 [1], progress of the best place in view; None: an older bundle's


SCENE = tuple(field.name for field in fields(Scene))  # outputs of encode.onnx


@dataclass(frozen=True, eq=False)
class Rollouts:
    """What the model expects of every candidate after each of K latent steps."""

    violation: np.ndarray  # float32 [N, K], > 0 means "violates"
    progress: np.ndarray  # float32 [N, K], higher is nearer to done


class Screener:
    """Runs a bundle.

    Args:
        bundle: a loaded bundle.
        provider: ``cpu``, ``cuda``, ``tensorrt`` or ONNX Runtime's full name.
        threads: threads within one operator; 1 is fastest for small models and leaves the other cores alone.

    Raises:
        ProviderError: the provider is not available, or ONNX Runtime fell back to another.
        BundleError: a graph cannot be loaded, or its inputs or outputs are not what the manifest says.
    """

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 1) -> None:
        self.bundle = bundle
        self.provider = PROVIDERS.get(provider.lower(), provider)
        manifest, interface = bundle.manifest, bundle.interface
        self._language = self._session("language.onnx", threads)
        self._encode = self._session("encode.onnx", threads)
        self._screen = self._session("screen.onnx", threads)
        steps, actions = manifest.horizon, interface.action_size
        latent, context = ("float", (1, manifest.latent)), ("float", (1, manifest.context))
        tokens = manifest.max_tokens
        words = ("float", _own_shape(self._language, "words", bundle.path / "language.onnx"))
        memory = ("float", _own_shape(self._encode, "memory", bundle.path / "encode.onnx"))
        self._nothing_seen = np.zeros(memory[1], np.float32)
        images = {f"image.{image.name}": image for image in interface.images}
        self._check(
            "language.onnx",
            self._language,
            {"tokens": ("int64", (1, tokens)), "mask": ("bool", (1, tokens))},
            {"words": words, "z_l": latent},
        )
        self._check(
            "encode.onnx",
            self._encode,
            {name: ("uint8", (1, image.height, image.width, image.channels)) for name, image in images.items()}
            | {"sensor": ("float", (1, interface.sensor_size)), "words": words}
            | {"mask": ("bool", (1, tokens)), "z_l": latent, "remembered": memory},
            {
                "latent": latent,
                "context": context,
                "weights": ("float", (1, len(manifest.modalities))),
                "proposal": ("float", (1, steps, actions)),
                "memory": memory,
                "goal": ("float", (1,)),
            },
            optional=("goal",) if manifest.goal_threshold is None else (),
        )
        self._scene = [name for name in SCENE if name in {node.name for node in self._encode.get_outputs()}]
        self._check(
            "screen.onnx",
            self._screen,
            {"latent": latent, "context": context, "actions": ("float", (None, steps, actions))},
            {"violation": ("float", (None, steps)), "progress": ("float", (None, steps))},
        )
        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{bundle.path / 'tokenizer.json'}: cannot be read: {error}") from None
        self._pad = (self._tokenizer.padding or {}).get("pad_id", 0)
        self._unknown = getattr(self._tokenizer.model, "unk_token", None)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()  # an instruction cut short is another instruction: refused, never truncated
        self._instructions: OrderedDict[str, Instruction] = OrderedDict()

    def instruct(self, text: str) -> Instruction:
        """Read an instruction; one that was read lately comes from memory.

        Raises:
            InstructionError: says what was found and what is allowed.
            ToldToStop: ``text`` says no more than to stop (:func:`tells_to_stop`).
        """
        if tells_to_stop(text):
            raise ToldToStop("told to stop")
        if text in self._instructions:
            self._instructions.move_to_end(text)
            return self._instructions[text]
        tokens, mask = self._tokenise(text)
        words, z_l = self._language.run(["words", "z_l"], {"tokens": tokens, "mask": mask})
        instruction = Instruction(text, mask, words, z_l)
        self._instructions[text] = instruction
        if len(self._instructions) > REMEMBERED_INSTRUCTIONS:
            self._instructions.popitem(last=False)
        return instruction

    def encode(self, step: Step, instruction: Instruction, memory: np.ndarray | None = None) -> Scene:
        """Latent state, context, modality weights and the policy's proposal for one observation.

        ``memory``: that of the scene before; none: nothing was seen before.
        """
        inputs = {f"image.{name}": image[None] for name, image in step.images.items()}
        inputs |= {"sensor": step.sensor[None], "words": instruction.words}
        inputs |= {"mask": instruction.mask, "z_l": instruction.z_l}
        inputs["remembered"] = self._nothing_seen if memory is None else memory
        return Scene(**dict(zip(self._scene, self._encode.run(self._scene, inputs), strict=True)))

    def screen(self, scene: Scene, actions: np.ndarray) -> Rollouts:
        """Imagine normalised ``actions`` [N, K, A] from ``scene``, all at once."""
        inputs = {"latent": scene.latent, "context": scene.context}
        inputs["actions"] = np.ascontiguousarray(actions, np.float32)
        return Rollouts(*self._screen.run(["violation", "progress"], inputs))

    def blank(self) -> tuple[Step, Instruction]:
        """Black images, sensors at zero and an instruction without words: input to warm up on."""
        interface, manifest = self.bundle.interface, self.bundle.manifest
        tokens = np.full((1, manifest.max_tokens), self._pad, np.int64)
        mask = np.zeros((1, manifest.max_tokens), bool)
        mask[0, 0] = True
        words, z_l = self._language.run(["words", "z_l"], {"tokens": tokens, "mask": mask})
        images = {
            image.name: np.zeros((image.height, image.width, image.channels), np.uint8) for image in interface.images
        }
        step = Step(0, images, np.zeros(interface.sensor_size, np.float32), {})
        return step, Instruction("", mask, words, z_l)

    def _session(self, name: str, threads: int) -> onnxruntime.InferenceSession:
        available = onnxruntime.get_available_providers()
        if self.provider not in available:
            raise ProviderError(
                f"provider: {self.provider} is not available in this onnxruntime; available: {', '.join(available)}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Between decisions the cores belong to the rest of the robot: waiting threads sleep instead of spinning.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # TensorRT leaves what it cannot run to CUDA; both leave the rest to the CPU.
        order = [PROVIDERS["tensorrt"], PROVIDERS["cuda"]]
        chain = order[order.index(self.provider) :] if self.provider in order else [self.provider]
        chain = [one for one in [*chain, PROVIDERS["cpu"]] if one in available]
        path = self.bundle.path / name
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=list(dict.fromkeys(chain)))
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from None
        if session.get_providers()[0] != self.provider:
            raise ProviderError(
                f"provider: {self.provider} was asked for, but {name} runs on {session.get_providers()[0]}; "
                "its libraries could not be loaded (see onnxruntime's log above)"
            )
        return session

    def _check(
        self,
        name: str,
        session: onnxruntime.InferenceSession,
        inputs: dict,
        outputs: dict,
        optional: Collection[str] = (),
    ) -> None:
        """Compare a graph's inputs and outputs, by name, type and shape, with what the manifest makes of them.

        Those named ``optional`` may be missing.
        """
        problems = []
        for kind, expected, found in (
            ("input", inputs, session.get_inputs()),
            ("output", outputs, session.get_outputs()),
        ):
            named = {node.name: node for node in found}
            problems += [f"{kind} '{missing}' is missing" for missing in expected if missing not in (*named, *optional)]
            problems += [f"{kind} '{extra}' is unknown" for extra in named if extra not in expected]
            for key in (key for key in expected if key in named):
                dtype, shape = expected[key]
                node = named[key]
                if node.type != f"tensor({dtype})" or not _fits(node.shape, shape):
                    wanted = [size if size is not None else "any" for size in shape]
                    problems.append(
                        f"{kind} '{key}' is {node.type}{node.shape}, the manifest needs tensor({dtype}){wanted}"
                    )
        if problems:
            raise BundleError(f"{self.bundle.path / name}: {'; '.join(problems)}")

    def _tokenise(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 [1, L] and mask bool [1, L]."""
        shown = repr(text if len(text) <= 80 else text[:80] + "…")
        if not text.strip():
            raise InstructionError("instruction: empty; write what to do and what never to do")
        if len(text) > MAX_CHARACTERS:
            raise InstructionError(f"instruction: {len(text)} characters, at most {MAX_CHARACTERS} allowed: {shown}")
        bad = next((character for character in text if not character.isprintable()), None)
        if bad is not None:
            raise InstructionError(f"instruction: character {bad!r} is not printable; one line of plain text allowed")
        encoding = self._tokenizer.encode(text)
        allowed = self.bundle.manifest.max_tokens
        if len(encoding.ids) > allowed:
            raise InstructionError(f"instruction: {len(encoding.ids)} tokens, at most {allowed} allowed: {shown}")
        # A rule that is only half understood is no rule to drive by.
        unknown = [
            text[start:end]
            for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
            if token == self._unknown
        ]
        if unknown:
            raise InstructionError(f"instruction: the model's tokenizer does not know {unknown[0]!r}: {shown}")
        tokens = np.full((1, allowed), self._pad, np.int64)
        tokens[0, : len(encoding.ids)] = encoding.ids
        mask = np.zeros((1, allowed), bool)
        mask[0, : len(encoding.ids)] = True
        return tokens, mask


def _own_shape(session: onnxruntime.InferenceSession, name: str, path: Path) -> tuple[int, ...]:
    """Shape of an output of three axes that only the graph itself knows the size of."""
    for node in session.get_outputs():
        if node.name == name and len(node.shape) == 3 and all(isinstance(size, int) for size in node.shape):
            return tuple(node.shape)
    raise BundleError(
        f"{path}: output '{name}' must be there, with three axes of fixed size; "
        "a bundle of an earlier version has to be trained again"
    )


def _fits(found: list[int | str | None], expected: tuple[int | None, ...]) -> bool:
    """Sizes agree where the manifest fixes one; the number of candidates (None) must be dynamic."""
    if len(found) != len(expected):
        return False
    return all(
        not isinstance(size, int) if wanted is None else (size == wanted or not isinstance(size, int))
        for size, wanted in zip(found, expected, strict=True)
    )
