"""Policies from elsewhere, e.g. learned with LeRobot: they drive in a domain alone, or the planner screens them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tc_mmwm_core.domains.base import imported


class PolicyError(ValueError):
    """A policy that cannot be loaded, or proposes what is no candidate."""


class Policy(Protocol):
    """What ``module:factory`` makes, once in each process. docs/own_policy.md has one."""

    def reset(self) -> None:
        """An episode begins."""
        ...

    def propose(self, observation: dict[str, np.ndarray], instruction: str) -> np.ndarray:
        """N candidates of K latent steps, float [N, K, A], in the units of the robot interface, most wanted first.

        Args:
            observation: ``image.<camera>`` uint8 [H, W, C] and ``sensor`` float32 [Ds], as the domain gives them.
            instruction: the text that is in force.
        """
        ...


Proposals = Callable[[dict[str, np.ndarray], dict[str, Any]], np.ndarray]  # of observation, info: [N, K, A] in units


def is_foreign(name: str) -> bool:
    """Whether ``name`` is of a policy from elsewhere, and not a driver that a domain or the planner has."""
    return ":" in name


def find_policy(name: str) -> Callable[[], Any]:
    """The factory that ``module:factory`` names. PolicyError: there is no such module, or it has no such factory."""
    try:
        return imported(name)
    except (ImportError, AttributeError) as error:
        raise PolicyError(f"policy {name!r} cannot be loaded: {error}") from error


def load_policy(name: str) -> Policy:
    """Make the policy ``module:factory``. PolicyError: see :func:`find_policy`; or what it makes is no policy."""
    policy = find_policy(name)()
    if isinstance(policy, type):
        raise PolicyError(f"policy {name!r} returns the class {policy.__name__}; an instance is needed")
    if missing := [method for method in ("reset", "propose") if not callable(getattr(policy, method, None))]:
        raise PolicyError(f"policy {name!r} is of type {type(policy).__name__}, without {' and '.join(missing)}()")
    return policy


def proposals(policy: Policy, name: str, actions: int, horizon: int | None = None) -> Proposals:
    """What ``policy`` proposes from the start of an episode on, checked.

    Args:
        actions: A.
        horizon: K that a bundle imagines; None: any.
    """
    policy.reset()
    needed = f"[N, {'K' if horizon is None else horizon}, {actions}]"

    def propose(observation: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        found = np.asarray(policy.propose(observation, info["instruction"]), np.float32)
        fits = found.ndim == 3 and found.size and found.shape[2] == actions and horizon in (None, found.shape[1])
        if not fits:
            raise PolicyError(
                f"policy {name!r} proposes {list(found.shape)}, needed are {needed}: N candidates of K steps"
            )
        if not np.isfinite(found).all():  # a simulator would go astray on them, and break no rule
            raise PolicyError(f"policy {name!r} proposes values that are not finite; an action is in units")
        return found

    return propose
