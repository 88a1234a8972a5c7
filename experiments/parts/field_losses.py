"""Losses of other libraries, each as a function of the named arrays of a certificate.

Every loss is the code of the installed library. Adapters pass our arrays in the form that it expects; networks become
functions that return the given log-probabilities and values. Entropy bonuses are 0, and a critic's loss in the same sum
has no gradient in log π. Advantages are computed by the same library. λ is 1 unless a name says otherwise, because then
an inexact critic adds no bias.

Libraries for streams (rejax, brax, stable-baselines3) get the batch as one stream, episode after episode, without
padding. Libraries are imported when a loss is made, which raises ImportError if one is not installed
(`pip install "policy-gradients-jax[field]"`).
"""

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax import ALGORITHMS, product, score
from pgjax.estimators.groups import group_standardised
from pgjax.oracle import exact_values
from pgjax.oracle.certificates import Problem
from pgjax.oracle.certificates.chain_rule import log_softmax

CLIP, DEFAULT_LAMBDA = 0.2, 0.95


class FieldLoss(NamedTuple):
    """A loss in common use.

    Attributes:
      library: name of the package for pip; "by hand" for losses written here.
      name: name of the loss, with settings that are not the library's defaults.
      make: () -> the argument of `pgjax.certify`; raises ImportError without the library.
      how: further arguments of `pgjax.certify`.
      problems: maps the default problems to those for this loss.
    """

    library: str
    name: str
    make: Callable[[], Any]
    how: Mapping[str, Any] = {}
    problems: Callable[[list[Problem]], list[Problem]] = list


def with_exact_critic(problems: list[Problem]) -> list[Problem]:
    """The same problems with exact values V_t(s); by default they are off by ±0.3."""

    def exact(p: Problem) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(exact_values(p.mdp, jax.nn.log_softmax(jnp.asarray(p.logits))).value)

    return [p._replace(value=exact(p)) for p in problems]


def kl_problems(problems: list[Problem]) -> list[Problem]:
    """The same problems with rewards log π_ref − log π_θ, so that J is −KL(π_θ‖π_ref) of an episode.

    Rewards are constants, evaluated at θ. ∇J is still right, because the missing term E[−∇log π_θ] is 0.
    """
    return [p._replace(mdp=replace(p.mdp, reward=log_softmax(p.reference) - log_softmax(p.logits))) for p in problems]


# --- rlax: sequences [T], vmapped over a batch ------------------------------------------------------------------------


def rlax_policy_gradient() -> Callable[..., Array]:
    """rlax.policy_gradient_loss of the returns, with weight 0 on padding."""
    import rlax

    def policy_gradient_loss(log_probs: Array, action: Array, returns: Array, mask: Array) -> Array:
        return jnp.mean(jax.vmap(rlax.policy_gradient_loss, in_axes=1)(log_probs, action, returns, mask))

    return policy_gradient_loss


def rlax_clipped_surrogate() -> Callable[..., Array]:
    """rlax.clipped_surrogate_pg_loss with rlax's GAE; it has no weights, so padding has an advantage of 0."""
    import rlax

    def clipped_surrogate_pg_loss(
        log_prob: Array,
        behaviour_log_prob: Array,
        reward: Array,
        mask: Array,
        terminated: Array,
        value: Array,
        next_value: Array,
        discount: Array,
    ) -> Array:
        values = jnp.concatenate([value, next_value[-1:]])
        goes_on = discount * (1 - terminated) * mask
        gae = partial(rlax.truncated_generalized_advantage_estimation, lambda_=1.0)
        advantage = jax.vmap(lambda r, d, v: gae(r, d, values=v), in_axes=1, out_axes=1)(reward, goes_on, values)
        ratio = jnp.exp(log_prob - behaviour_log_prob)
        loss = partial(rlax.clipped_surrogate_pg_loss, epsilon=CLIP)
        return jnp.mean(jax.vmap(loss, in_axes=1)(ratio, advantage * mask))

    return clipped_surrogate_pg_loss


def rlax_vtrace() -> Callable[..., Array]:
    """rlax.policy_gradient_loss with rlax.vtrace_td_error_and_advantage, summed as in IMPALA."""
    import rlax

    def vtrace(
        log_prob: Array,
        log_probs: Array,
        action: Array,
        behaviour_log_prob: Array,
        reward: Array,
        mask: Array,
        terminated: Array,
        value: Array,
        next_value: Array,
        discount: Array,
    ) -> Array:
        ratio, goes_on = jnp.exp(log_prob - behaviour_log_prob), discount * (1 - terminated) * mask
        targets = jax.vmap(rlax.vtrace_td_error_and_advantage, in_axes=1, out_axes=1)
        advantage = targets(value, next_value, reward, goes_on, ratio).pg_advantage
        return jnp.mean(jax.vmap(rlax.policy_gradient_loss, in_axes=1)(log_probs, action, advantage, mask))

    return vtrace


# --- rejax and brax: streams, in JAX ----------------------------------------------------------------------------------


def rejax_ppo(gae_lambda: float = 1.0) -> Callable[..., Array]:
    """rejax.PPO's calculate_gae and update_actor; the gradient is the one passed to its optimiser."""
    import rejax  # pyright: ignore[reportMissingImports]
    from rejax.algos.ppo import AdvantageMinibatch, Trajectory  # pyright: ignore[reportMissingImports]

    def update_actor(
        log_prob: Array,
        behaviour_log_prob: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        value: Array,
        discount: Array,
    ) -> Array:
        actor = SimpleNamespace(apply=lambda params, *_, method: (params, jnp.zeros_like(params)))
        ppo = SimpleNamespace(gamma=discount[0], gae_lambda=gae_lambda, clip_eps=CLIP, ent_coef=0.0, actor=actor)
        done = terminated + truncated  # rejax reads a single flag of gymnax
        steps = Trajectory(value, value, behaviour_log_prob, reward, value, done)
        advantages, targets = rejax.PPO.calculate_gae(ppo, steps, jnp.zeros(()))  # type: ignore[arg-type]
        batch = AdvantageMinibatch(steps, advantages, targets)
        optimiser = SimpleNamespace(params=log_prob, apply_gradients=lambda grads: grads)
        state = SimpleNamespace(actor_ts=optimiser, replace=lambda actor_ts: actor_ts)
        gradient = rejax.PPO.update_actor(ppo, state, batch)  # type: ignore[arg-type]
        return jnp.sum(jax.lax.stop_gradient(gradient) * log_prob)  # a function with this gradient

    return update_actor


def brax_ppo(gae_lambda: float = 1.0, normalise: bool = False) -> Callable[..., Array]:
    """brax's compute_ppo_loss, one environment."""
    with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints which optional parts are not installed
        from brax.training.agents.ppo.losses import PPONetworkParams, compute_ppo_loss
        from brax.training.types import Transition

    def compute_loss(
        log_prob: Array,
        behaviour_log_prob: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        value: Array,
        next_value: Array,
        discount: Array,
    ) -> Array:
        unit = SimpleNamespace(loc=jnp.zeros(()), scale=jnp.ones(()))  # brax logs the scale of its Gaussian policy
        distribution = SimpleNamespace(
            log_prob=lambda logits, action: logits,
            entropy=lambda logits, key: jnp.zeros_like(logits),
            create_dist=lambda logits: unit,
        )
        networks = SimpleNamespace(
            parametric_action_distribution=distribution,
            policy_network=SimpleNamespace(apply=lambda normaliser, params, observation: params),
            value_network=SimpleNamespace(apply=lambda normaliser, params, observation: observation),
        )
        extras: Any = {
            "state_extras": {"truncation": truncated[None]},
            "policy_extras": {"raw_action": reward[None], "log_prob": behaviour_log_prob[None]},
        }
        going = 1 - terminated - truncated
        steps = Transition(value[None], reward[None], reward[None], going[None], next_value[None], extras)
        return compute_ppo_loss(
            PPONetworkParams(policy=log_prob[:, None], value=None),  # type: ignore[call-arg]
            None,
            steps,
            jax.random.key(0),
            networks,  # type: ignore[arg-type]
            entropy_cost=0.0,
            discounting=discount[0],  # type: ignore[arg-type]
            gae_lambda=gae_lambda,
            clipping_epsilon=CLIP,
            normalize_advantage=normalise,
        )[0]

    return compute_loss


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def stable_baselines3_ppo(gae_lambda: float = 1.0, normalise: bool = False) -> Callable[..., tuple[float, np.ndarray]]:
    """stable_baselines3.PPO.train on a filled RolloutBuffer: one epoch, one minibatch, no gradient clipping.

    The loss is a local variable of `train`; its gradient is read from the optimiser and its value from the log.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from gymnasium import spaces  # pyright: ignore[reportMissingImports]
    from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.buffers import RolloutBuffer  # pyright: ignore[reportMissingImports]

    def train(
        log_prob: np.ndarray,
        behaviour_log_prob: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        value: np.ndarray,
        next_value: np.ndarray,
        discount: np.ndarray,
    ) -> tuple[float, np.ndarray]:
        count, done = len(log_prob), terminated + truncated
        place = spaces.Box(0, count, (1,), np.float64)  # observations are step numbers
        buffer = RolloutBuffer(count, place, spaces.Discrete(2), "cpu", gae_lambda, discount[0])
        buffer.observations = np.arange(count, dtype=float).reshape(count, 1, 1)
        columns = {
            "rewards": reward + discount * truncated * next_value,  # as in its rollouts at a time limit
            "values": value,
            "log_probs": behaviour_log_prob,
            "episode_starts": np.concatenate([[1.0], done[:-1]]),
            "advantages": np.zeros(count),  # in float64, like the other arrays
        }
        for name, column in columns.items():
            setattr(buffer, name, np.array(column, np.float64)[:, None])
        buffer.compute_returns_and_advantage(torch.zeros(1, dtype=torch.float64), done[-1:])
        buffer.full = True

        slot = torch.tensor(np.array(log_prob), requires_grad=True)
        values, logged = torch.tensor(np.array(value)), {}

        def evaluate_actions(observations: Any, actions: Any) -> tuple:
            at = observations[:, 0].long()
            return values[at], slot[at], torch.zeros(count)

        nothing = SimpleNamespace(zero_grad=lambda: None, step=lambda: None)
        policy = SimpleNamespace(
            set_training_mode=lambda on: None,
            optimizer=nothing,
            evaluate_actions=evaluate_actions,
            parameters=lambda: [slot],
        )
        model = SimpleNamespace(
            policy=policy,
            rollout_buffer=buffer,
            action_space=spaces.Discrete(2),
            clip_range=lambda progress: CLIP,
            clip_range_vf=None,
            normalize_advantage=normalise,
            n_epochs=1,
            batch_size=count,
            ent_coef=0.0,
            vf_coef=0.5,
            max_grad_norm=float("inf"),
            target_kl=None,
            verbose=0,
            logger=SimpleNamespace(record=lambda key, value, exclude=None: logged.update({key: value})),
            _update_learning_rate=lambda optimizer: None,
            _current_progress_remaining=1.0,
            _n_updates=0,
        )
        PPO.train(model)  # type: ignore[arg-type]
        assert slot.grad is not None
        return float(logged["train/policy_gradient_loss"]), slot.grad.numpy()

    return train


def polgrad_loss(algorithm: str, kl: bool = False) -> Callable[..., Any]:
    """policy_loss of an entry of polgrad's registry, with the advantages of that entry, on tensors [N, T].

    Args:
      algorithm: name of the entry.
      kl: keep a KL term of the loss; otherwise it is dropped, and so is a KL penalty on rewards.
    """
    import polgrad  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    from polgrad import advantages  # pyright: ignore[reportMissingImports]

    spec = polgrad.get_algorithm(algorithm)
    config = spec.loss if kl else replace(spec.loss, kl=None)

    def policy_loss(
        log_prob: Any,
        behaviour_log_prob: Any,
        reference_log_prob: Any,
        reward: Any,
        episode_return: Any,
        mask: Any,
        value: Any,
        discount: Any,
        group: Any,
    ) -> Any:
        there = mask > 0
        if spec.advantage == "gae":
            gae = replace(spec.advantage_config, gamma=float(discount[0, 0]), lam=1.0)
            rewards, values = (torch.where(there, x, 0.0) for x in (reward, value))  # polgrad rejects NaN on padding
            advantage = advantages.gae(rewards, values, config=gae, response_mask=there)[0]
        elif spec.advantage == "rloo":
            advantage = advantages.rloo_advantages(episode_return, group)
        elif spec.advantage == "grpo":
            advantage = advantages.grpo_advantages(episode_return, group, spec.advantage_config)
        else:
            advantage = advantages.reinforce_pp_advantages(episode_return, config=spec.advantage_config)
        # Corrections between sampler and learner use three policies; here the old one is the learner's.
        corrected = config.is_correction is not None
        found = polgrad.policy_loss(
            replace(config, norm_len=mask.shape[1]),  # maximum length of an answer
            logprobs=log_prob,
            old_logprobs=log_prob.detach() if corrected else behaviour_log_prob,
            advantages=advantage,
            response_mask=there,
            ref_logprobs=reference_log_prob if kl else None,
            rollout_logprobs=behaviour_log_prob if corrected else None,
        )
        return found.loss

    return policy_loss


# --- by hand: common mistakes, and the KL as a loss -------------------------------------------------------------------


def padded_mean(log_prob: Array, episode_return: Array, mask: Array) -> Array:
    """`mean()` of a padded array: it divides by the length of the longest episode in the batch."""
    return -jnp.mean(log_prob * mask * episode_return)


def own_mean(log_prob: Array, episode_return: Array, mask: Array) -> Array:
    """The mean of the batch as a baseline, which includes the return that it is subtracted from."""
    advantage = episode_return - jnp.mean(episode_return)
    return -jnp.mean(jnp.sum(log_prob * mask, axis=0) * advantage)


def kl_loss(log_prob: Array, reference_log_prob: Array, mask: Array, estimate: Callable[[Array], Array]) -> Array:
    """An estimate of the KL(π_θ‖π_ref) of a step from x = log(π_θ/π_ref), differentiated through log π_θ."""
    return jnp.mean(jnp.sum(mask * estimate(log_prob - reference_log_prob), axis=0))


def k1(x: Array) -> Array:
    """Unbiased as a value; its mean gradient is 0."""
    return x


def k2(x: Array) -> Array:
    """Biased as a value; its mean gradient is ∇KL(π_θ‖π_ref) of the step."""
    return x**2 / 2


def k3(x: Array) -> Array:
    """Unbiased as a value; its mean gradient is that of the reverse direction, KL(π_ref‖π_θ)."""
    return jnp.exp(-x) - 1 + x


def k1_in_reward(log_prob: Array, reference_log_prob: Array, mask: Array) -> Array:
    """−k1 as the reward of a step, without gradient, summed from that step on."""
    reward = jax.lax.stop_gradient(-(log_prob - reference_log_prob) * mask)
    to_go = jnp.flip(jnp.cumsum(jnp.flip(reward, 0), axis=0), 0)
    return -jnp.mean(jnp.sum(mask * log_prob * to_go, axis=0))


STREAM: dict[str, Any] = {"layout": "flat"}
ROWS: dict[str, Any] = {"layout": "batch_major", "pad_to": "horizon", "framework": "torch"}
REGISTRY = ("ppo", "rloo", "dr_grpo", "grpo", "grpo_tis", "dapo", "cispo", "gspo", "gspo_token", "reinforce_pp")

LOSSES = (
    FieldLoss("pgjax", "reinforce", ALGORITHMS["reinforce"]),
    FieldLoss("pgjax", "rloo", ALGORITHMS["rloo"]),
    FieldLoss("pgjax", "ppo", ALGORITHMS["ppo"]),
    FieldLoss("pgjax", "vtrace", ALGORITHMS["vtrace"]),
    FieldLoss("pgjax", "dr_grpo", ALGORITHMS["dr_grpo"], {"pad_to": "horizon"}),
    FieldLoss("pgjax", "grpo, without its KL term", partial(ALGORITHMS["grpo"], reference_coefficient=0.0)),
    FieldLoss("pgjax", "dapo", ALGORITHMS["dapo"]),
    FieldLoss("pgjax", "group_standardised × score", lambda: product(group_standardised, score)),
    FieldLoss("rlax", "policy_gradient_loss, padded to the horizon", rlax_policy_gradient, {"pad_to": "horizon"}),
    FieldLoss("rlax", "policy_gradient_loss, padded to the longest", rlax_policy_gradient),
    FieldLoss("rlax", "clipped_surrogate_pg_loss", rlax_clipped_surrogate, {"pad_to": "horizon"}),
    FieldLoss("rlax", "vtrace_td_error_and_advantage", rlax_vtrace, {"pad_to": "horizon"}),
    FieldLoss("brax", "PPO, λ = 1, advantages as they are", brax_ppo, STREAM),
    FieldLoss("brax", "PPO, λ = 1, exact critic", brax_ppo, STREAM, with_exact_critic),
    FieldLoss("brax", "PPO, λ = 0.95, standardised", partial(brax_ppo, DEFAULT_LAMBDA, True), STREAM),
    FieldLoss("rejax", "PPO, λ = 1, standardised", rejax_ppo, STREAM),
    FieldLoss("rejax", "PPO, λ = 0.95, standardised", partial(rejax_ppo, DEFAULT_LAMBDA), STREAM),
    FieldLoss(
        "stable-baselines3",
        "PPO, λ = 1, advantages as they are",
        stable_baselines3_ppo,
        STREAM | {"framework": "numpy"},
    ),
    FieldLoss(
        "stable-baselines3",
        "PPO, λ = 0.95, standardised",
        partial(stable_baselines3_ppo, DEFAULT_LAMBDA, True),
        STREAM | {"framework": "numpy"},
    ),
    *(FieldLoss("polgrad", name, partial(polgrad_loss, name), ROWS) for name in REGISTRY),
    FieldLoss("polgrad", "grpo, with its KL term", partial(polgrad_loss, "grpo", kl=True), ROWS),
    FieldLoss("by hand", "mean over padded steps", lambda: padded_mean),
    FieldLoss("by hand", "baseline: the batch's own mean", lambda: own_mean),
    FieldLoss("by hand", "KL as a loss: k1", lambda: partial(kl_loss, estimate=k1), problems=kl_problems),
    FieldLoss("by hand", "KL as a loss: k2", lambda: partial(kl_loss, estimate=k2), problems=kl_problems),
    FieldLoss("by hand", "KL as a loss: k3", lambda: partial(kl_loss, estimate=k3), problems=kl_problems),
    FieldLoss("by hand", "KL in the reward: k1", lambda: k1_in_reward, problems=kl_problems),
)
