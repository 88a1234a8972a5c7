"""The small problems on which estimators are enumerated."""

import numpy as np

from pgjax import oracle


def _random_mdp(seed, states, actions, horizon, discount, ends):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions))
    if ends:
        transition *= rng.uniform(0.4, 0.9, (states, actions, 1))
    return oracle.make_mdp(
        rng.dirichlet(np.ones(states)), transition, rng.normal(size=(states, actions)), horizon, discount
    )


MDPS = {
    "variable_length": _random_mdp(0, states=2, actions=3, horizon=3, discount=0.9, ends=True),
    "fixed_length": _random_mdp(1, states=3, actions=2, horizon=3, discount=1.0, ends=False),
    "one_state": oracle.make_mdp([1.0], [[[0.8], [0.3]]], [[1.0, -0.5]], horizon=4, discount=0.7),
}
