"""Labels for training: each recorded motion judged under several instructions, once, before training starts.

A simulator's oracle can judge any instruction on any trajectory, so that the same motion is seen both allowed and
forbidden. A real recording has its own instruction and whatever was labelled; everything else is unknown and masked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.base import Domain, DomainError, Judgement
from tc_mmwm_core.domains.conformance import DISAGREE, check_advice, check_judgement, check_self_filter, disagreeing
from tc_mmwm_core.models.encoders import CELL
from tc_mmwm_core.models.grounding import REFERENTS
from tc_mmwm_core.models.vocabulary import TextTokens
from tc_mmwm_core.training.distributed import is_first
from tc_mmwm_core.utils.workers import SPAWN, start_worker

REASONS = 5  # that are printed, at most
SHARE = 64  # trajectories that a process of its own is worth starting for


@dataclass(frozen=True)
class Labels:
    """Labels of N trajectories under M instructions each; NaN or -1 where unknown.

    Attributes:
        tokens: int64 [N, M, L]; mask: bool [N, M, L].
        margin, cost: per trajectory float32 [M, S]; violation: per trajectory int8 [M, S].
        referents: float32 [N, M, R, 4].
        place: per trajectory float32 [S, 2 · bodies], NaN where unknown.
        elsewhere: per trajectory float32 [S, C - 1, bodies, 2], in the images of the other cameras; NaN where unknown.
        field: float16 [N, M, 2, G, G], cost and margin at each place in view; NaN where unknown.
        expert: bool [N, M], where the recorded motion carried the instruction out with success: worth imitating.
        advice: per trajectory float32 [M, S, A], units, what an expert would do at each step; NaN where unknown.
        visible: per trajectory float16 [S, cells], share of each cell of the first camera's map that the robot itself
            does not hide; NaN where unknown.
    """

    texts: list[list[str]]
    tokens: np.ndarray
    mask: np.ndarray
    margin: list[np.ndarray]
    cost: list[np.ndarray]
    violation: list[np.ndarray]
    referents: np.ndarray
    place: list[np.ndarray]
    elsewhere: list[np.ndarray]
    field: np.ndarray
    expert: np.ndarray
    advice: list[np.ndarray]
    visible: list[np.ndarray]

    def counted(self, trajectory: int) -> np.ndarray:
        """Which of the M instructions of ``trajectory`` are evidence of their own, rising, int64.

        All that an oracle judged: a text that it drew twice weighs twice, as the draw has it. Where there was nothing
        to judge by, the recorded instruction stands in several places, and is one all the same.
        """
        judged = np.isfinite(self.margin[trajectory]).any(1)
        first = np.unique(self.texts[trajectory], return_index=True)[1]
        return np.union1d(np.flatnonzero(judged), first)


def per_cell(pixels: np.ndarray) -> np.ndarray:
    """Mean over the pixels [..., H, W] of each cell of the model's map, [..., cells]."""
    height, width = pixels.shape[-2:]
    cells = pixels.reshape(*pixels.shape[:-2], height // CELL, CELL, width // CELL, CELL).mean((-3, -1))
    return cells.reshape(*cells.shape[:-2], -1)


def label(
    dataset: Dataset,
    domain: Domain | None,
    count: int,
    tokens: TextTokens,
    seed: int,
    progress: bool = True,
    bodies: int = 1,
    workers: int = 1,
) -> Labels:
    """Judge every trajectory under its own instruction and ``count - 1`` others.

    Without a domain, a scene or a state there is nothing to judge by: the recorded instruction stands in all
    ``count`` places. A recorded instruction that the domain can't judge keeps the labels that were recorded, too; how
    many those are, and why, is printed. So is in how many steps the recorded violation is another than the oracle's
    margin says, if in more than :data:`DISAGREE` of them. ``progress`` shows a bar; ``bodies`` is how many points the
    model locates: the first of those that the domain's oracle does. The labels do not depend on ``workers``, the
    processes that judge.

    Raises:
        ConfigError: the robot has no camera.
        DomainError: the domain's oracle locates fewer, or what the domain returned is not what the protocol has; names
            the function, what it returned and what is allowed.
    """
    if not dataset.interface.images:
        raise ConfigError(f"robot interface '{dataset.interface.name}': 'images' is empty; the model needs a camera")
    judged = _judge_all(dataset, domain, count, seed, workers)
    columns = list(tqdm(judged, desc="labels", unit="trajectory", total=len(dataset), disable=not progress))
    _tell_unjudged(dataset, [column[3] for column in columns])
    texts = [column[0] for column in columns]
    ids, mask = tokens([text for row in texts for text in row])
    shape = (len(texts), count, tokens.max_tokens)
    margin, cost, violation, place, elsewhere, visible = [], [], [], [], [], []
    first = dataset.interface.images[0].name
    others = len(dataset.interface.images) - 1
    advice = [column[2] for column in columns]
    grid = next((j.field_cost.shape for _, judgements, *_ in columns for j in judgements if j is not None), (1, 1))
    field = np.full((len(texts), count, 2, *grid), np.nan, np.float16)
    referents = np.zeros((len(texts), count, REFERENTS, 4), np.float32)
    expert = np.zeros((len(texts), count), bool)
    disagree = compared = 0
    for index, (_, judgements, *_) in enumerate(columns):
        trajectory = dataset[index]
        length = len(trajectory.sensor)
        margin.append(np.full((count, length), np.nan, np.float32))
        cost.append(np.full((count, length), np.nan, np.float32))
        violation.append(np.broadcast_to(trajectory.violation, (count, length)).astype(np.int8))
        place.append(np.full((length, 2 * bodies), np.nan, np.float32))
        elsewhere.append(np.full((length, others, bodies, 2), np.nan, np.float32))
        # Only what a simulator drew has a simulated robot's pixels: a real recording has no scene.
        visible.append(_visible(trajectory.images[first], None if trajectory.scene is None else domain))
        expert[index, 0] = bool(trajectory.success)
        if judgements[0] is not None:
            known = trajectory.valid & (trajectory.violation >= 0)
            compared += int(known.sum())
            disagree += int((disagreeing(trajectory.violation, judgements[0].margin) & known).sum())
        for which, judgement in enumerate(judgements):
            if judgement is None:
                expert[index, which] = bool(trajectory.success)  # the recorded instruction stands here too
                continue
            margin[-1][which], cost[-1][which] = judgement.margin, judgement.cost
            violation[-1][which] = judgement.margin > 0
            rows = judgement.referents[:REFERENTS]
            referents[index, which, : len(rows)] = rows
            located = judgement.place.shape[1] // 2
            if located < bodies:
                raise DomainError(f"model.bodies is {bodies}; the oracle of domain {domain.name!r} locates {located}")
            place[-1] = judgement.place[:, : 2 * bodies]
            if judgement.elsewhere is not None:
                elsewhere[-1] = judgement.elsewhere[:, :, :bodies]
            if judgement.field_cost.shape != grid:
                sides = f"{judgement.field_cost.shape[0]} and {grid[0]}"
                raise DomainError(
                    f"domain '{domain.name}': judge() returned fields of both {sides} places a side; keep one"
                )
            field[index, which] = judgement.field_cost, judgement.field_margin
    _tell_disagreeing(dataset, disagree, compared)
    tokens_of, mask_of = ids.reshape(shape), mask.reshape(shape)
    return Labels(
        texts, tokens_of, mask_of, margin, cost, violation, referents, place, elsewhere, field, expert, advice, visible
    )


def _tell_unjudged(dataset: Dataset, reasons: list[str]) -> None:
    """Print how many recorded instructions could not be judged, and the first few ``reasons`` (empty: it was)."""
    told = Counter(filter(None, reasons))
    if told and is_first():
        shown = "".join(f"\n  {times} times: {reason}" for reason, times in told.most_common(REASONS))
        more = f"\n  and {len(told) - REASONS} others" if len(told) > REASONS else ""
        paths = ", ".join(sorted({info.dataset for info in dataset.trajectories}))
        print(
            f"{paths}: {told.total()} of {len(reasons)} recorded instructions are not judged:{shown}{more}", flush=True
        )


def _tell_disagreeing(dataset: Dataset, disagree: int, compared: int) -> None:
    """Print that the recorded violation and the oracle's ``disagree`` in more steps than few of those ``compared``."""
    if disagree > DISAGREE * compared and is_first():
        paths = ", ".join(sorted({info.dataset for info in dataset.trajectories}))
        print(
            f"{paths}: warning: in {disagree} of {compared} judged steps ({disagree / compared:.1%}) the recorded "
            "violation is another than the margin that the domain's oracle gives under the recorded instruction. The "
            "oracle's is learned; tc-mmwm check shows where a domain contradicts itself",
            flush=True,
        )


def _visible(image: np.ndarray, domain: Domain | None) -> np.ndarray:
    unknown = np.full((len(image), per_cell(image[0, ..., 0]).size), np.nan, np.float16)
    if domain is None:
        return unknown
    robot = domain.self_filter(image)
    check_self_filter(robot, domain, image)
    return unknown if robot is None else per_cell(~robot).astype(np.float16)


@dataclass(frozen=True)
class _Recorded:
    """What a trajectory is judged by."""

    seed: tuple[int, int]
    instruction: str
    scene: dict[str, Any] | None
    states: np.ndarray | None  # [S, P]
    actions: tuple[int, int]  # shape


_Judged = tuple[list[str], list[Judgement | None], np.ndarray, str]


def _judge_all(dataset: Dataset, domain: Domain | None, count: int, seed: int, workers: int) -> Iterator[_Judged]:
    """Texts, judgements and advice of each trajectory, and why its recorded instruction was not judged; in order."""
    trajectories = ((index, dataset[index]) for index in range(len(dataset)))
    recorded = (
        _Recorded((seed, index), t.instruction, t.scene, None if t.state is None else np.array(t.state), t.action.shape)
        for index, t in trajectories
    )
    judge = partial(_judge, domain=domain, count=count, others=len(dataset.interface.images) - 1)
    workers = min(workers, len(dataset) // SHARE)
    if workers <= 1 or domain is None:
        yield from map(judge, recorded)
        return
    with ProcessPoolExecutor(workers, SPAWN, start_worker) as pool:
        yield from pool.map(judge, recorded, chunksize=8)


def _judge(recorded: _Recorded, domain: Domain | None, count: int, others: int) -> _Judged:
    advice = np.full((count, *recorded.actions), np.nan, np.float32)
    if domain is None or recorded.scene is None or recorded.states is None:
        return [recorded.instruction] * count, [None] * count, advice, ""
    rng = np.random.default_rng(recorded.seed)
    texts = [recorded.instruction, *(domain.draw_instruction(recorded.scene, rng) for _ in range(count - 1))]
    states = np.nan_to_num(recorded.states)  # a step that was not observed holds NaN; `valid` masks its labels
    judgements: list[Judgement | None] = []
    why = ""
    for which, text in enumerate(texts):  # both of a text in turn: a domain may keep what they share
        try:
            judgement = domain.judge(recorded.scene, states, text)
        except DomainError as error:
            if which:  # what the domain itself drew
                raise
            judgements.append(None)
            why = str(error)
            continue
        check_judgement(judgement, domain, states, text, others)
        judgements.append(judgement)
        advised = domain.advise(recorded.scene, states, text)
        check_advice(advised, domain, states, text, recorded.actions[1])
        if advised is not None:
            advice[which] = advised
    return texts, judgements, advice, why
