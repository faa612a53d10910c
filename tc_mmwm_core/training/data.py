"""Batches for training: windows of the datasets, cut into latent steps and judged under several instructions."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from tc_mmwm_core.data.dataset import Dataset, TrajectoryInfo
from tc_mmwm_core.data.windows import Windows, WindowSampler
from tc_mmwm_core.domains.base import Domain
from tc_mmwm_core.models.encoders import CELL
from tc_mmwm_core.models.vocabulary import TextTokens
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.config import DataConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.erasing import erase
from tc_mmwm_core.training.labels import Labels, label


class LabelledData:
    """Datasets with their labels; each is one source with its share of the windows."""

    def __init__(self, datasets: Sequence[Dataset], config: TrainConfig, domain: Domain | None, progress: bool = True):
        self.datasets = list(datasets)
        self.config, self.domain = config, domain
        tokens = TextTokens(config.model.max_tokens)
        self.labels: list[Labels] = [
            label(
                dataset,
                domain,
                config.data.instructions,
                tokens,
                config.seed + index,
                progress,
                config.model.bodies,
                torch.get_num_threads(),
            )
            for index, dataset in enumerate(datasets)
        ]
        self.weights = source_weights(datasets, config.data)

    def under(self, config: TrainConfig) -> LabelledData:
        """The same labels for training with ``config``, which must have the same data settings, tokens and seed."""
        other = copy.copy(self)
        other.config = config
        return other

    @property
    def trajectories(self) -> int:
        """Number of trajectories."""
        return sum(len(dataset) for dataset in self.datasets)

    def sampler(self, stage: StageConfig, seed: int) -> WindowSampler:
        """Windows of the control steps that the stage's latent steps take; a plan that goes on beyond is cut there.

        Those from the start begin anywhere in the first latent step: only so is every control step of a trajectory, its
        last one as well, at times a latent step.
        """
        skip = self.config.model.frame_skip
        start = skip if stage.from_start else 0
        return WindowSampler(self.datasets, stage.trajectories, stage.window(skip), self.weights, seed, start)

    def batch(
        self, sampler: WindowSampler, stage: StageConfig, rng: np.random.Generator, rows: slice = slice(None)
    ) -> Batch:
        """The sampler's next windows under instructions that ``rng`` draws; ``rows``: only these of the windows."""
        windows = sampler.sample(rows)
        several = min(stage.instructions, self.config.data.instructions)
        choice = np.argsort(rng.random((sampler.batch, self.config.data.instructions)), 1)[rows, :several]
        return self.assemble(windows, choice)

    def whole(self, sampler: WindowSampler, dataset: int, trajectory: int, choice: np.ndarray) -> Batch:
        """The last latent steps of one trajectory's longest run of valid steps, under its instructions ``choice`` [M].

        See :func:`to_the_end`.
        """
        steps = to_the_end(self.datasets[dataset][trajectory].unbroken, self.config.model.frame_skip)
        one = np.ones(1, np.int64)
        windows = sampler.gather(one * dataset, one * trajectory, one * steps.start, steps.stop - steps.start)
        return self.assemble(windows, choice[None])

    def assemble(self, windows: Windows, choice: np.ndarray) -> Batch:
        """``windows`` of control steps, cut into latent steps, under the instructions ``choice`` [B, M].

        Where they end within the last latent step its action is not known whole: nothing is predicted from it or
        imitated.
        """
        model = self.config.model
        skip = model.frame_skip
        count, length = windows.valid.shape
        steps = -(-length // skip)
        interface = self.datasets[0].interface
        actions = interface.normalise_action(windows.action)
        actions = np.pad(actions, ((0, 0), (0, steps * skip - length), (0, 0)))
        latent_actions = actions.reshape(count, steps, skip, -1).mean(2)
        plan, plan_valid = _following(latent_actions, model.horizon, length // skip)
        chosen = _Chosen(self.labels, windows.dataset, windows.trajectory, windows.start, choice, length, skip)
        cells = sum(image.height * image.width for image in interface.images) // CELL**2
        visible = np.full((count, steps, cells), np.nan, np.float32)
        own = chosen.of_steps("visible")
        visible[..., : own.shape[-1]] = own
        cameras = [windows.images[image.name] for image in interface.images]  # in the order that the model has them in
        images = [torch.from_numpy(np.ascontiguousarray(x[:, ::skip])) for x in cameras]
        # A rule that is broken between two latent steps is broken: that is how a bundle's bound counts it.
        violation = chosen.since_last("violation")
        violation = np.where((violation == 1).any(-1), 1, violation.min(-1))
        return Batch(
            images=images,
            visible=torch.from_numpy(visible),
            sensor=torch.from_numpy(np.ascontiguousarray(windows.sensor[:, ::skip])),
            actions=torch.from_numpy(latent_actions.astype(np.float32)),
            plan=torch.from_numpy(plan.astype(np.float32)),
            plan_valid=torch.from_numpy(plan_valid),
            valid=torch.from_numpy(np.ascontiguousarray(windows.valid[:, ::skip])),
            tokens=torch.from_numpy(chosen.of("tokens")),
            mask=torch.from_numpy(chosen.of("mask")),
            margin=torch.from_numpy(chosen.since_last("margin").max(-1)),
            cost=torch.from_numpy(chosen.over_time("cost")),
            violation=torch.from_numpy(violation.astype(np.int64)),
            referents=torch.from_numpy(chosen.of("referents")),
            place=torch.from_numpy(chosen.of_steps("place")),
            elsewhere=torch.from_numpy(chosen.of_steps("elsewhere")),
            field=torch.from_numpy(chosen.fields().astype(np.float32)),
            expert=torch.from_numpy(chosen.of("expert")),
            advice=torch.from_numpy(interface.normalise_action(chosen.over_time("advice")).astype(np.float32)),
        )


class _Chosen:
    """Labels of the chosen instructions of each window."""

    def __init__(
        self,
        labels: list[Labels],
        dataset: np.ndarray,
        trajectory: np.ndarray,
        start: np.ndarray,
        choice: np.ndarray,
        length: int,
        skip: int,
    ) -> None:
        rows = zip(dataset.tolist(), trajectory.tolist(), start.tolist(), choice, strict=True)
        self.rows = [(labels[d], t, s, c) for d, t, s, c in rows]
        self.length, self.skip = length, skip
        # A dataset that no oracle judged has no grid of its own: one for all, or batches could not be joined.
        self.grid = max(each.field.shape[-2:] for each in labels)

    def of(self, name: str) -> np.ndarray:
        """[B, M, ...]."""
        return np.stack([getattr(labels, name)[t][c] for labels, t, _, c in self.rows])

    def fields(self) -> np.ndarray:
        """[B, M, 2, G, G]."""
        shape = (len(self.rows[0][3]), 2, *self.grid)
        return np.stack([np.broadcast_to(labels.field[t][c], shape) for labels, t, _, c in self.rows])

    def of_steps(self, name: str) -> np.ndarray:
        """[B, T, ...]; the same under every instruction."""
        return np.stack([getattr(labels, name)[t][s : s + self.length : self.skip] for labels, t, s, _ in self.rows])

    def over_time(self, name: str) -> np.ndarray:
        """[B, M, T, ...]."""
        return np.stack(
            [getattr(labels, name)[t][c][:, s : s + self.length : self.skip] for labels, t, s, c in self.rows]
        )

    def since_last(self, name: str) -> np.ndarray:
        """[B, M, T, skip]: at each latent step what came since the one before, and at a window's first step only that
        step: what led to it lies outside of the window, perhaps in a gap."""
        since = np.maximum(np.arange(0, self.length, self.skip)[:, None] + np.arange(1 - self.skip, 1), 0)
        return np.stack([getattr(labels, name)[t][c][:, s + since] for labels, t, s, c in self.rows])


def to_the_end(run: slice, frame_skip: int) -> slice:
    """Of a run of control steps those from the first on that leave the last one a latent step of its own.

    What an episode ends with is judged there: it may be the violation for which it ended.
    """
    return slice(run.start + (run.stop - run.start - 1) % frame_skip, run.stop)


def _following(actions: np.ndarray, horizon: int, whole: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``horizon`` actions from each step on, [B, T, K, A], and which of them are among the ``whole`` first."""
    steps = actions.shape[1]
    index = np.arange(steps)[:, None] + np.arange(horizon)
    valid = np.repeat((index < whole)[None], len(actions), 0)
    return actions[:, np.minimum(index, steps - 1)], valid


def source_weights(datasets: Sequence[Dataset], config: DataConfig) -> list[float]:
    """Share of each dataset: its source's weight, split within the source in proportion to steps.

    A dataset belongs to the source that most of its trajectories have.
    """
    real = [sum(info.source == "real" for info in d.trajectories) * 2 > len(d) for d in datasets]
    total = {kind: sum(d.steps for d, r in zip(datasets, real, strict=True) if r == kind) for kind in (True, False)}
    weight = {True: config.real_weight, False: config.simulated_weight}
    return [weight[r] * d.steps / total[r] for d, r in zip(datasets, real, strict=True)]


def split(dataset: Dataset, holdout: float, beside: Sequence[Dataset] = ()) -> tuple[Dataset, Dataset]:
    """Training and held-out trajectories: each episode is held out by its own content, in ``holdout`` of all cases.

    So an episode is on the same side whatever lies beside it: what is appended later, or was trained on by the run
    whose weights another starts from (``--init``), never turns from what was trained on into what a threshold is
    calibrated on. A larger ``holdout`` holds out all that a smaller one does, and more. One alone is trained on. Their
    order follows from the content, too: trajectories are written in another one by every number of workers. What
    resembles each other, the pieces of an episode and the episodes of a layout, is all on one side: see
    :attr:`TrajectoryInfo.group`. Episodes of a layout are in several datasets, usually: ``beside`` are the others that
    are trained on.
    """
    datasets = [dataset, *beside]
    groups = _grouped(dataset, datasets, lambda info: info.group)
    if len(groups) == 1:  # one layout alone: its episodes
        groups = _grouped(dataset, datasets, lambda info: info.episode)
    if len(groups) == 1:
        # Pieces of one recording alone: were none held out, there were nothing to measure training on. What is measured
        # on them flatters the model, but no threshold is ever calibrated on them: see `unseen`.
        groups = _grouped(dataset, datasets, lambda info: info.identity)
    held = sum(int(place[:13], 16) < holdout * 16**13 for place, _ in groups)
    held = min(max(held, 1), len(groups) - 1)  # those of the smallest places; never none of several, never all
    parts = (groups[held:], groups[:held])
    training, held_out = (dataset.subset([index for _, those in part for index in those]) for part in parts)
    return training, held_out


def _grouped(
    dataset: Dataset, datasets: Sequence[Dataset], key: Callable[[TrajectoryInfo], str]
) -> list[tuple[str, list[int]]]:
    """The trajectories of ``dataset`` of each ``key``, a sha256, and the place that decides their side, rising.

    It is the identity of a trajectory that is alone in all ``datasets``, and the key of several: the place of the
    smallest of several identities would be among the small ones, and they would be held out too often.
    """
    identities: dict[str, set[str]] = {}
    for info in (info for each in datasets for info in each.trajectories):
        identities.setdefault(key(info), set()).add(info.identity)
    groups: dict[str, list[int]] = {}
    for index in sorted(range(len(dataset)), key=lambda index: dataset.trajectories[index].identity):
        groups.setdefault(key(dataset.trajectories[index]), []).append(index)
    return sorted((min(identities[of]) if len(identities[of]) == 1 else of, those) for of, those in groups.items())


class TrainedOn:
    """Which trajectories weights were fitted to or chosen by, these or those that they started from, and whether an
    oracle ``judged`` any of them, which alone teaches progress: a part of every checkpoint.

    A threshold must not be calibrated on any of them, and a run goes on with the same datasets in the same order only:
    each is drawn from by its place among them.
    """

    def __init__(self, datasets: Sequence[Dataset], seen: Sequence[Dataset], before: Iterable[str] = ()) -> None:
        """Of ``datasets`` the parts ``seen`` are fitted to, or chosen by; until now, those of identities ``before``.

        Kept are the identities of trajectories and of their episodes, which a recording converted again shares.
        """
        those = [info for data in seen for info in data.trajectories]
        self.identities = sorted({*before, *(info.identity for info in those), *(info.episode for info in those)})
        self.datasets = [dataset.digest for dataset in datasets]
        self.judged = False  # known once they are labelled
        self._names = {dataset.digest: " ".join(map(str, dataset.paths)) for dataset in datasets}

    def state_dict(self) -> dict[str, Any]:
        """Their identities, the datasets' digests in order, and whether any was judged."""
        return {"identities": self.identities, "datasets": self.datasets, "judged": self.judged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, where ``state`` is of the same. ValueError: it is of others; names what differs."""
        known = state.get("datasets")  # None: of a run that began before they were kept
        if known is not None and known != self.datasets:
            was, now = (self._named(digests) for digests in (known, self.datasets))
            raise ValueError(f"--data was {was} and is {now} now; continue with the same data in the same order")
        theirs, ours = set(state["identities"]), set(self.identities)
        if theirs == ours:
            return
        if known is not None:
            raise ValueError(
                "what it is trained on was divided otherwise: it started from other weights (continue with the same "
                "--init), or was begun before the pieces of an episode, or episodes of a layout, were held out together"
            )
        raise ValueError(
            f"trained on {len(theirs)} trajectories, {len(theirs - ours)} of which are not among these now, "
            f"which are {len(ours)}; continue with the same --data and --init"
        )

    def _named(self, digests: Sequence[str]) -> str:
        return " ".join(self._names.get(digest, f"[{digest[:12]}…]") for digest in digests)


def unseen(datasets: Sequence[Dataset], trained_on: Collection[str]) -> tuple[list[Dataset], int]:
    """Of each dataset, the trajectories of whose :attr:`~TrajectoryInfo.group` nothing that is given here is in
    ``trained_on``, in the order of identities.

    Each once, in the first dataset that has it: what is given twice (folders that overlap, a bag converted again) is no
    second independent trajectory. Second, how many were left out for that.
    """
    given = [info for dataset in datasets for info in dataset.trajectories]
    known = {info.group for info in given if info.identity in trained_on or info.episode in trained_on}
    parts, taken, repeated = [], set(), 0
    for dataset in datasets:
        chosen = []
        for index in sorted(range(len(dataset)), key=lambda index: dataset.trajectories[index].identity):
            info = dataset.trajectories[index]
            if info.group in known:
                continue
            if info.identity in taken:
                repeated += 1
            else:
                chosen.append(index)
                taken.add(info.identity)
        parts.append(dataset.subset(chosen))
    return parts, repeated


def prefetch(
    data: LabelledData,
    sampler: WindowSampler,
    stage: StageConfig,
    seed: int,
    first: int,
    rows: slice = slice(None),
    ahead: int = 3,
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Batches from step ``first`` on, made in a thread beside training, with the sampler's state after each.

    They are made with NumPy: torch operations in a second thread have OpenMP threads of their own, and with more of
    these than cores all of training waits (``tc-mmwm bench train`` on two cores: 570 ms a step in place of 420).

    Instructions and what is erased are drawn by a generator of (seed, step), windows by the sampler: both stand right
    after a resume.
    """
    ready: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()

    def fill() -> None:
        step = first
        try:
            while not stop.is_set():
                rng = np.random.default_rng([seed, step])
                batch = data.batch(sampler, stage, rng, rows)
                if hidden := data.config.data.erase:
                    batch = erase(batch, hidden, rng, sampler.batch, rows)
                _put(ready, (batch, sampler.state_dict()), stop)
                step += 1
        except BaseException as error:  # the training thread raises it, not this one
            _put(ready, error, stop)

    thread = threading.Thread(target=fill, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _put(ready: queue.Queue, item: object, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return ready.put(item, timeout=0.1)
        except queue.Full:
            continue
