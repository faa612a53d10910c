"""Labels for training: each recorded motion judged under several instructions, once, before training starts.

A simulator's oracle can judge any instruction on any trajectory, so that the same motion is seen both allowed and
forbidden. A real recording has its own instruction and whatever was labelled; everything else is unknown and masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.data.trajectory import Trajectory
from tc_mmwm_core.domains.base import Domain, Judgement
from tc_mmwm_core.models.vocabulary import TextTokens

REFERENTS = 3


@dataclass(frozen=True)
class Labels:
    """Labels of N trajectories under M instructions each; NaN or -1 where unknown.

    Attributes:
        tokens: int64 [N, M, L]; mask: bool [N, M, L].
        margin, cost: per trajectory float32 [M, S]; violation: per trajectory int8 [M, S].
        referents: float32 [N, M, R, 4].
        place: per trajectory float32 [S, 2 · bodies], NaN where unknown.
        field: float16 [N, M, 2, G, G], cost and margin at each place in view; NaN where unknown.
        expert: bool [N, M], where the recorded motion carried the instruction out with success: worth imitating.
        advice: per trajectory float32 [M, S, A], units, what an expert would do at each step; NaN where unknown.
    """

    texts: list[list[str]]
    tokens: np.ndarray
    mask: np.ndarray
    margin: list[np.ndarray]
    cost: list[np.ndarray]
    violation: list[np.ndarray]
    referents: np.ndarray
    place: list[np.ndarray]
    field: np.ndarray
    expert: np.ndarray
    advice: list[np.ndarray]


def label(
    dataset: Dataset,
    domain: Domain | None,
    count: int,
    tokens: TextTokens,
    seed: int,
    progress: bool = True,
    bodies: int = 1,
) -> Labels:
    """Judge every trajectory under its own instruction and ``count - 1`` others.

    Without a domain, a scene or a state there is nothing to judge by: the recorded instruction stands in all
    ``count`` places. ``progress`` shows a bar; ``bodies`` is how many points the model locates: the
    first of those that the domain's oracle does.

    Raises:
        ValueError: the domain's oracle locates fewer.
    """
    columns: list[tuple[list[str], list[Judgement | None], np.ndarray]] = []
    for index in tqdm(range(len(dataset)), desc="labels", unit="trajectory", disable=not progress):
        columns.append(_judge(dataset[index], domain, count, np.random.default_rng([seed, index])))
    texts = [column[0] for column in columns]
    ids, mask = tokens([text for row in texts for text in row])
    shape = (len(texts), count, tokens.max_tokens)
    margin, cost, violation, place = [], [], [], []
    advice = [column[2] for column in columns]
    grid = next((j.field_cost.shape for _, judgements, _ in columns for j in judgements if j is not None), (1, 1))
    field = np.full((len(texts), count, 2, *grid), np.nan, np.float16)
    referents = np.zeros((len(texts), count, REFERENTS, 4), np.float32)
    expert = np.zeros((len(texts), count), bool)
    for index, (_, judgements, _) in enumerate(columns):
        trajectory = dataset[index]
        length = len(trajectory.sensor)
        margin.append(np.full((count, length), np.nan, np.float32))
        cost.append(np.full((count, length), np.nan, np.float32))
        violation.append(np.broadcast_to(trajectory.violation, (count, length)).astype(np.int8))
        place.append(np.full((length, 2 * bodies), np.nan, np.float32))
        expert[index, 0] = bool(trajectory.success)
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
                raise ValueError(f"model.bodies is {bodies}; the oracle of domain {domain.name!r} locates {located}")
            place[-1] = judgement.place[:, : 2 * bodies]
            field[index, which] = judgement.field_cost, judgement.field_margin
    tokens_of, mask_of = ids.reshape(shape), mask.reshape(shape)
    return Labels(texts, tokens_of, mask_of, margin, cost, violation, referents, place, field, expert, advice)


def _judge(
    trajectory: Trajectory, domain: Domain | None, count: int, rng: np.random.Generator
) -> tuple[list[str], list[Judgement | None], np.ndarray]:
    advice = np.full((count, *trajectory.action.shape), np.nan, np.float32)
    if domain is None or trajectory.scene is None or trajectory.state is None:
        return [trajectory.instruction] * count, [None] * count, advice
    others = [domain.draw_instruction(trajectory.scene, rng) for _ in range(count - 1)]
    texts = [trajectory.instruction, *others]
    states = np.nan_to_num(trajectory.state)  # a step that was not observed holds NaN; `valid` masks its labels
    judgements: list[Judgement | None] = []
    for which, text in enumerate(texts):  # both of a text in turn: a domain may keep what they share
        judgements.append(domain.judge(trajectory.scene, states, text))
        advised = domain.advise(trajectory.scene, states, text)
        if advised is not None:
            advice[which] = advised
    return texts, judgements, advice
