"""Train on eight virtual devices, a program of its own: prints what it finds as JSON. It is killed if it hangs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from parts.collectives import traffic

from pgjax import environments, make_agent, make_trainer, ppo, reinforce, sweeps, use_cpu_devices
from pgjax.engine import hosts

UPDATES = 2  # of the program whose collectives are counted

REINFORCE = reinforce(), {"num_envs": 16}
PPO = ppo(standardise=True), {"num_envs": 16, "num_steps": 16, "epochs": 3, "minibatches": 2}
CASES = {
    "reinforce seeds": (*REINFORCE, 8, (8, 1), 50),
    "reinforce environments": (*REINFORCE, 1, (1, 8), 5),
    "ppo seeds": (*PPO, 8, (8, 1), 50),
    "ppo environments": (*PPO, 1, (1, 8), 5),
    "both": (*REINFORCE, 2, (2, 4), 5),
}


def case(name, environment, hidden):
    """How far eight devices end from one, and what they said per update."""
    recipe, settings, seeds, mesh, updates = CASES[name]
    config = replace(recipe.config, **settings)
    environment = environments.make(environment)
    agent = make_agent(environment, hidden=(hidden,), critic=config.critic)
    trainer = make_trainer(environment, agent, config)
    ends = []
    for shape in ((1, 1), mesh):
        runs = sweeps.start(trainer, recipe.algorithm, seeds=seeds, mesh=shape)
        assert runs.mesh.devices.shape == shape
        program = sweeps.compiled(trainer, runs, UPDATES)
        for _ in range(-(-updates // UPDATES)):
            runs, _ = sweeps.advance(trainer, runs, 1 << 30, UPDATES)
        ends.append(jax.tree.leaves(hosts.fetch(runs.state.params)))
    sent = traffic(program.as_text())
    apart = max(float(np.max(np.abs(a - b))) for a, b in zip(*ends, strict=True))
    moved = float(max(np.max(np.abs(a)) for a in ends[0]))
    return {"apart": apart, "moved": moved, "calls": sent.calls / UPDATES, "bytes": sent.bytes / UPDATES}


if __name__ == "__main__":
    use_cpu_devices(8)
    environment, hidden, *names = sys.argv[1:]
    print(json.dumps({name: case(name, environment, int(hidden)) for name in names}))
