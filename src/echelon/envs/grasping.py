"""Experience with OGBench's cube: its own oracles, which take it from place to place, with noise."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import EpisodeWriter
from echelon.envs.cube import Cube, CubeTask, advance, random_state, simulation
from echelon.envs.cube_views import draw
from echelon.envs.noise import correlated
from echelon.envs.task import Array, check_collection
from echelon.progress import Progress
from echelon.types import EchelonError

STREAM = 1
"""of random numbers; episodes of stream 0 were looked at beforehand, and settings chosen by them"""


@dataclass(frozen=True)
class CubeCollect:
    """Logged grasping: OGBench's oracles bring the cube to a place drawn at random, then to another."""

    episodes: int = 1000
    steps: int = 200
    """actions an episode, each a twentieth of a second; OGBench's own has as many"""
    planned: float = 0.5
    """share of episodes by the oracle that follows a plan with noise of its own; in the others it is
    the one that decides anew at every step"""
    noise: tuple[float, float] = (0.0, 0.4)
    """least and most standard deviation of noise on actions; each episode draws one"""
    correlations: tuple[float, ...] = (0.0, 0.5, 0.9)
    """of the noise, from one step to the next; each episode draws one"""
    image_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_collection(self.episodes, self.steps, self.image_size, self.correlations, self.noise)
        if not 0 <= self.planned <= 1:
            raise EchelonError("planned: a share, from 0 to 1")


def collect(config: CubeCollect, path: Path, progress: Progress) -> None:
    """Write the episodes of `config` to an HDF5 file, with the true state as a column of its own.

    Columns "action" and "state" are what :class:`Cube` says of them, "state" in double precision, so
    that a grasp can be repeated from it.
    """
    world = simulation()
    meta = {"task": CubeTask().name, "env": Cube.__name__}
    with (
        EpisodeWriter(path, meta) as writer,
        progress.task("collect", config.episodes) as done,
    ):
        for episode in range(config.episodes):
            rng = np.random.default_rng((config.seed, STREAM, episode))
            with _global_stream(rng):
                states, actions = _grasp(config, world, rng)
            writer.add(
                {"pixels": draw(states, config.image_size), "action": actions, "state": states}
            )
            done(None)


def _grasp(
    config: CubeCollect, world: Any, rng: np.random.Generator
) -> tuple[Array, NDArray[np.float32]]:
    """States [T + 1, 47] and actions [T, 5] of one episode."""
    states, actions = [random_state(world, int(rng.integers(2**31)))], list[NDArray[np.float32]]()
    oracle = _oracle(world, planned=bool(rng.random() < config.planned))
    oracle.reset(None, world.compute_ob_info())
    spread, correlation = rng.uniform(*config.noise), rng.choice(config.correlations)
    for noise in islice(correlated(rng, correlation, (5,)), config.steps):
        if oracle.done:
            oracle.reset(*world.set_new_target())
        action = oracle.select_action(None, world.compute_ob_info()) + spread * noise
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        states.append(advance(world, states[-1], actions[-1]))
    return np.array(states), np.array(actions)


def _oracle(world: Any, planned: bool) -> Any:
    """What knows where the cube is and is to be; `simulation` has told where OGBench is missing."""
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

    return CubePlanOracle(env=world) if planned else CubeMarkovOracle(env=world)


@contextmanager
def _global_stream(rng: np.random.Generator) -> Generator[None]:
    """NumPy's global stream, which OGBench's oracles draw from: seeded, and in the end as it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(rng.integers(2**31)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
