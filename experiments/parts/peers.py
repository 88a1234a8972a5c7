"""Other libraries under the same timing: each trains from scratch in one call and evaluates its policy.

PPO uses the settings below where a library has them, A2C the library's own. Libraries are imported when they are called
and raise ImportError if not installed (`pip install "policy-gradients-jax[bench]"`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Train = Callable[[int], tuple[Callable[[], float], int]]
"""seed -> (function that evaluates the mean return, environment steps); returns after training has finished."""

PPO = {
    "learning_rate": 2.5e-4,
    "clip": 0.2,
    "gae_lambda": 0.95,
    "discount": 0.99,
    "value_coefficient": 0.5,
    "entropy_coefficient": 0.01,
    "max_grad_norm": 0.5,
}
PASSES, MINIBATCHES = 4, 4
EVALUATION_EPISODES = 64


def rejax_ppo(environment: str, num_envs: int, num_steps: int, seeds: int, total_steps: int) -> Train:
    """PPO of rejax, vmapped over seeds; its evaluations during training are not timed."""
    import gymnax
    import rejax  # pyright: ignore[reportMissingImports]
    from rejax.evaluate import evaluate  # pyright: ignore[reportMissingImports]

    env, params = gymnax.make(environment)
    env: Any = _OneEndFlag(env)
    algorithm = rejax.PPO.create(
        env=env,
        env_params=params,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=PASSES,
        num_minibatches=MINIBATCHES,
        learning_rate=PPO["learning_rate"],
        clip_eps=PPO["clip"],
        gae_lambda=PPO["gae_lambda"],
        gamma=PPO["discount"],
        vf_coef=PPO["value_coefficient"],
        ent_coef=PPO["entropy_coefficient"],
        max_grad_norm=PPO["max_grad_norm"],
        total_timesteps=total_steps,
        eval_freq=total_steps,
        skip_initial_evaluation=True,
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: jnp.zeros(()))
    train = jax.jit(jax.vmap(lambda key: algorithm.train(key)[0]))
    batch = num_envs * num_steps

    def returns(state: Any, key: jax.Array) -> jax.Array:
        return evaluate(algorithm.make_act(state), key, env, params, EVALUATION_EPISODES)[1]

    def run(seed: int) -> tuple[Callable[[], float], int]:
        states = jax.block_until_ready(train(jax.random.split(jax.random.key(seed), seeds)))
        one = jax.tree.map(lambda x: x[0], states)
        return lambda: float(jnp.mean(returns(one, jax.random.key(1 << 31)))), -(-total_steps // batch) * batch * seeds

    return run


class _OneEndFlag:
    """gymnax 1.0's two end flags as the single one that rejax expects."""

    def __init__(self, env: Any):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_env":
            raise AttributeError(name)
        return getattr(self._env, name)

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple:
        observation, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        return observation, state, reward, terminated | truncated, info


def stable_baselines3(
    algorithm: str, environment: str, num_envs: int, num_steps: int, passes: int, total_steps: int
) -> Train:
    """A2C or PPO of stable-baselines3 on gymnasium's environment of the same name, on the CPU."""
    import stable_baselines3  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.evaluation import evaluate_policy  # pyright: ignore[reportMissingImports]

    ppo = algorithm == "ppo"
    settings: dict[str, Any] = {"n_steps": num_steps, "gamma": PPO["discount"], "device": "cpu"}
    if ppo:
        settings |= {"n_epochs": passes, "batch_size": num_envs * num_steps // MINIBATCHES}
        settings |= {"learning_rate": PPO["learning_rate"], "ent_coef": PPO["entropy_coefficient"]}
    kind = getattr(stable_baselines3, algorithm.upper())
    environments = make_vec_env(environment, n_envs=num_envs)

    def run(seed: int) -> tuple[Callable[[], float], int]:
        model = kind("MlpPolicy", environments, seed=seed, **settings).learn(total_steps)

        def measured() -> float:
            fresh = make_vec_env(environment, n_envs=1, seed=1 << 20)
            returns = evaluate_policy(model, fresh, EVALUATION_EPISODES // 4, deterministic=False)[0]
            return float(np.mean(returns))

        return measured, int(model.num_timesteps)

    return run
