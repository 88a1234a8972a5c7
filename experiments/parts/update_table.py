"""The table of updates: every method on every path, by enumeration, against `parts.plain_updates`.

A row runs `pgjax.learn` on every batch that a tabular problem can produce and compares two results:

- each: the new parameters of every batch, with those of the NumPy update
- expected: the expected change, with α times the exact mean of the estimator. If a pass has several steps, or the step
  is not linear in α, it is the derivative of the expected change at α = 0.

The expected mean and the probabilities are those of the NumPy reference. If a method does not support a path, it is
rejected with a `SettingError`, and the row shows the error.
"""

import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from inspect import signature
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.tree_util import Partial

from parts import plain_updates as plain
from parts.plain_updates import METHODS, Method, Steps, Tables
from pgjax import ALGORITHMS, BASELINES, FORMS, Config, SettingError, make_trainer, oracle, standardised, sweeps
from pgjax.engine import blocks
from pgjax.estimators.reductions import ENV_AXIS
from pgjax.methods.hyperparameters import with_hyperparameters
from pgjax.methods.reference import with_reference
from pgjax.runs.settings.idle import NOTHING_TO_STANDARDISE
from pgjax.spaces import Discrete, MultiDiscrete, combinations, parts

TOLERANCE = 1e-10
RATE, STEP = 0.3, 0.7  # α of gradient descent, and of natural steps
TRUST = 0.1  # KL of natural steps: a trust region that some batches reach and some do not
NEAR = 1e-3  # size of a step that no line search shortens
KEYS = 24  # number of keys that shuffle minibatches

THETA = np.array([[0.3, -0.4], [-0.2, 0.5]])
CRITICS = {"none": np.zeros(0), "state": np.array([0.7, -0.3]), "action": np.array([[0.4, -0.2], [1.1, 0.6]])}
EARLIER = (  # tables and gradient of the previous update, for recursive estimators
    Tables(THETA + np.array([[0.2, -0.1], [0.3, 0.1]])),
    Tables(np.array([[0.5, -0.3], [0.2, 0.4]])),
)

REFERENCE = ((0.1, 0.2), (0.4, -0.3))  # θ of a reference policy
SAMPLER = ((0.6, -0.6), (0.0, 0.4))  # θ of the sampler, if it is not the learner

REWARD = np.array([[1.0, -0.5], [2.0, 0.3]])
CHAIN = np.array([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
UNSURE = np.array([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.6, 0.0]]])
ENDLESS = np.array([[[0.0, 1.0], [0.0, 0.5]], [[0.0, 1.0], [0.0, 0.0]]])
EITHER, FIRST = np.array([0.6, 0.4]), np.array([1.0, 0.0])
PROBLEMS = {  # name: tables, whether the horizon is a time limit
    "three steps": (oracle.make_mdp(EITHER, UNSURE, REWARD, horizon=3, discount=0.9), False),
    "two steps": (oracle.make_mdp(EITHER, CHAIN, REWARD, horizon=2, discount=0.9), False),
    "one start": (oracle.make_mdp(FIRST, UNSURE, REWARD, horizon=2, discount=0.9), False),
    "stream": (oracle.make_mdp(FIRST, ENDLESS, REWARD, horizon=2, discount=0.9), True),
    "short stream": (oracle.make_mdp(FIRST, CHAIN, REWARD, horizon=2, discount=0.9), True),
}

SPACE: Any = None  # action space; None for one Discrete number
MASKS: Any = None  # masks of `oracle.tabular_agent`


@dataclass(frozen=True)
class Actions:
    """Another action space, with the constants that replace those above."""

    space: Any
    masks: list  # for each part None or a table [S, outputs]
    theta: np.ndarray  # [S, outputs]
    reward: np.ndarray  # [S, A]
    transition: np.ndarray  # [S, A, S]


ACTIONS = {
    "joint": Actions(
        {"move": Discrete(2), "tools": (MultiDiscrete((2, 1)),)},
        [None, np.array([[1, 1, 1], [0, 1, 1]])],
        np.array([[0.3, -0.4, 0.2, -0.1, 0.4], [-0.2, 0.5, 0.1, 0.6, -0.3]]),
        np.array([[1.0, -0.5, 0.4, 2.0], [0.0, 2.0, 0.0, 0.3]]),
        np.array([[[0.0, 1.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]),
    ),
    "masked": Actions(
        Discrete(3),
        [np.array([[1, 0, 1], [1, 1, 0]])],
        np.array([[0.3, 5.0, -0.4], [-0.2, 0.5, 5.0]]),
        np.array([[1.0, 9.0, -0.5], [2.0, 0.3, 9.0]]),
        np.array([[[0.0, 1.0], [0.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]),
    ),
}
"""Action spaces: nested parts of several kinds, one of them masked; and one Discrete number with a mask."""


@dataclass(frozen=True)
class Case:
    """One method with its hyperparameters, in pgjax and in the reference."""

    label: str
    recipe: str
    given: dict[str, Any] = field(hash=False)
    method: Method


@dataclass(frozen=True)
class Path:
    """One path from a batch to new parameters."""

    label: str
    config: dict[str, Any] = field(default_factory=dict, hash=False)
    problem: str = "three steps"
    num_envs: int = 2
    num_steps: int = 3  # of a stream
    devices: int = 1
    cached_steps: int | None = None  # steps per block on a CPU
    standardise: bool = False
    max_grad_norm: float = math.inf


@dataclass(frozen=True)
class Row:
    """A row of the table, with the largest absolute differences."""

    case: str
    path: str
    batches: int = 0
    deals: int = 1  # number of partitions into minibatches
    expected: float = math.nan
    each: float = math.nan
    bias: float | None = None  # of the expected policy step, relative to ∇J of the discounted objective
    refused: str | None = None
    failed: str | None = None  # error of a path that was not rejected and does not run

    @property
    def red(self) -> bool:
        """Whether the update differs from the reference or fails."""
        return self.refused is None and not (self.expected < TOLERANCE and self.each < TOLERANCE)


def cases() -> dict[str, Case]:
    """Every recipe; REINFORCE and the forms of importance sampling with every baseline that they support."""
    found = []
    for credit, baseline in itertools.product(("reward_to_go", "total_return"), BASELINES):
        given = {"credit": credit, "baseline": baseline, "baseline_constant": 0.4}
        found.append(_case("reinforce", given, f"{credit}, {baseline}"))
    for form, baseline in itertools.product(FORMS, BASELINES):
        admitted = baseline == "none" if form.startswith("weighted") else not baseline.startswith("optimal")
        if admitted:
            given = {"baseline": baseline, "baseline_constant": 0.4}
            given |= {"max_weight": 1.05} if form == "truncated_is" else {}
            found.append(_case(form, given, baseline))
    found += [_case(name, {}) for name in ("doubly_robust", "all_action", "rloo", "dice")]
    found += family()
    for baseline in ("none", "time_step", "state_value"):
        found.append(_case("storm", {"baseline": baseline, "momentum": 0.3}, baseline))
    found.append(_case("storm", {"baseline": "none", "momentum": 1.0}, "no memory"))
    trusted = {"gae_lambda": 0.8, "max_kl": TRUST, "damping": 0.01}
    found += [_case("a2c", {"gae_lambda": 0.8}), _case("ppo", {"gae_lambda": 0.8, "clip": 0.05})]
    found.append(_case("ppo", {"gae_lambda": 0.8, "clip": 0.05, "value_clip": 0.1}, "value clipped"))
    found.append(_case("ppo", {"gae_lambda": 0.8, "clip": math.inf, "kl_coefficient": 0.7}, "KL penalty"))
    found.append(_case("ppo", {"gae_lambda": 0.8, "clip": 0.2, "target_kl": 0.01}, "stopped early"))
    found += [_case("npg", trusted), _case("trpo", trusted)]
    found.append(_case("vtrace", {"gae_lambda": 0.8, "max_rho": 1.1, "max_c": 0.9}))
    return {case.label: case for case in found}


def family() -> list[Case]:
    """The ratio family, with hyperparameters at which every part of it has an effect on some batches."""
    found = [_case("grpo", {"clip": 0.05, "reference_coefficient": 0.3})]
    for name in ("k1_loss", "k2_loss", "k2_reward", "k3_reward"):
        found.append(_case("grpo", {"clip": 0.05, "reference_kl": name, "reference_coefficient": 0.3}, name))
    found.append(_case("dr_grpo", {"clip": 0.05}))
    found.append(_case("dapo", {"clip_low": 0.03, "clip_high": 0.06}))
    found += [_case(name, {"clip_low": 0.01, "clip_high": 0.02}) for name in ("gspo", "gspo_token")]
    found.append(_case("cispo", {"clip_low": 0.03, "clip_high": 0.06}))
    found.append(_case("sampler_is", {"clip": 0.05, "max_mismatch": 1.1}))
    found.append(_case("reinforce_pp", {"clip": 0.05, "reference_coefficient": 0.3}))
    found.append(_case("delightful", {"temperature": 0.7}))
    found.append(_case("dual_clip", {"gae_lambda": 1.0, "clip": 0.05, "dual_clip": 1.01}))
    found.append(_case("awr", {"gae_lambda": 0.8, "temperature": 0.5, "max_weight": 2.0}))
    for name, given, estimate in (
        ("reinforce", {"baseline": "leave_one_out"}, "k2_loss"),
        ("ppo", {"gae_lambda": 0.8, "clip": 0.05}, "k1_reward"),
        ("npg", {"gae_lambda": 0.8, "max_kl": TRUST, "damping": 0.01}, "k3_loss"),
    ):
        found.append(_case(name, given | {"reference_kl": estimate, "reference_coefficient": 0.3}, estimate))
    found.append(_case("vmpo", {"gae_lambda": 0.8, "temperature_bound": 0.05, "kl_coefficient": 0.7}))
    return found


MAIN = {
    "reinforce": "reinforce (reward_to_go, leave_one_out)",
    **{form: f"{form} (time_step)" for form in FORMS if not form.startswith("weighted")},
    **{form: f"{form} (none)" for form in FORMS if form.startswith("weighted")},
    "storm": "storm (time_step)",
}
"""The case of each recipe that is tested on every path; recipes not listed have one case, with their own name."""


def _case(name: str, given: dict[str, Any], variant: str = "") -> Case:
    known = {f for f in Method.__dataclass_fields__} & set(given)
    method = replace(METHODS[name], discount=0.9, rate=RATE, **{f: given[f] for f in known})
    if "baseline" in given and method.baseline == "state_value":
        method = replace(method, target="reward_to_go")
    if method.policy_step != "none":
        method = replace(method, step_size=STEP)
    if method.reference_kl != "none":
        method = replace(method, reference=REFERENCE)
    if method.max_mismatch < math.inf:
        method = replace(method, sampler=SAMPLER)
    if variant == "no memory":
        method = replace(method, momentum=None)
    return Case(f"{name} ({variant})" if variant else name, name, given, method)


WHOLE_EPISODES = [
    Path("held"),
    Path("mean over steps", {"mean": "steps"}),
    Path("replayed in two slices", {"accumulate": 2}),
    Path("minibatches of environments", {"minibatches": 2, "epochs": 1}, "one start", num_envs=4),
    Path("minibatches of steps", {"minibatches": 2, "shuffle": "steps", "mean": "steps"}),
    Path("groups", {"group_size": 2}, "two steps", num_envs=4),
    Path("groups in slices", {"group_size": 2, "accumulate": 2}, "two steps", num_envs=4),
    Path("slices within groups", {"group_size": 2, "accumulate": 4}, "two steps", num_envs=4),
    Path("two devices", {"epochs": 1}, devices=2),
    Path("two devices, two passes", {"epochs": 2}, devices=2),
    Path("four devices", {"epochs": 1}, "one start", num_envs=4, devices=4),
    Path("groups on two devices", {"epochs": 1, "group_size": 2}, "two steps", num_envs=4, devices=2),
    Path("minibatches on two devices", {"epochs": 1, "minibatches": 2}, "one start", num_envs=4, devices=2),
    Path("plain engine", {"engine": "plain"}),
    Path("engine of accelerators", {"engine": "accelerator"}),
    Path("engine of CPUs, blocks of two steps", {"engine": "cpu"}, cached_steps=2),
    Path("diagnostics", {"diagnostics": 2}, "one start", num_envs=4),
    Path("discounted objective", {"discounted_objective": True, "epochs": 1}),
    Path("discounted objective, replayed", {"discounted_objective": True, "accumulate": 2}),
    Path("standardised", standardise=True),
    Path("three passes", {"epochs": 3}),
    Path("gradient clipped", {}, max_grad_norm=0.3),
]
STREAMS = [
    Path("held"),
    Path("mean over trajectories", {"mean": "trajectories"}),
    Path("replayed in two slices", {"accumulate": 2}),
    Path("minibatches of environments", {"minibatches": 2, "epochs": 1}, num_envs=4, num_steps=2),
    Path("minibatches of steps", {"minibatches": 2, "epochs": 1, "shuffle": "steps"}, num_steps=2),
    Path("minibatches of six steps", {"minibatches": 2, "epochs": 1, "shuffle": "steps"}),
    Path("minibatches of steps, two passes", {"minibatches": 2, "shuffle": "steps"}, num_steps=2),
    Path("groups", {"group_size": 2}, num_envs=4, num_steps=2),
    Path("two devices", devices=2),
    Path("four devices", num_envs=4, num_steps=2, devices=4),
    Path("minibatches on two devices", {"epochs": 1, "minibatches": 2}, num_envs=4, num_steps=2, devices=2),
    Path(
        "minibatches of steps on two devices",
        {"epochs": 1, "minibatches": 2, "shuffle": "steps"},
        num_steps=2,
        devices=2,
    ),
    Path("uneven minibatches of steps on two devices", {"minibatches": 2, "shuffle": "steps"}, num_steps=3, devices=2),
    Path("plain engine", {"engine": "plain"}),
    Path("engine of accelerators", {"engine": "accelerator"}),
    Path("engine of CPUs, blocks of two steps", {"engine": "cpu"}, cached_steps=2),
    Path("diagnostics", {"diagnostics": 2}),
    Path("discounted objective", {"discounted_objective": True}),
    Path("standardised", standardise=True),
    Path("three passes", {"epochs": 3}),
    Path("gradient clipped", {}, max_grad_norm=0.3),
]
STREAMS = [replace(path, problem="stream" if path.num_envs == 2 else "short stream") for path in STREAMS]


def paths_of(case: Case) -> list[Path]:
    """Paths of a case: all for the main case of a recipe, held batches for the others."""
    every = STREAMS if ALGORITHMS[case.recipe]().config.rollout == "stream" else WHOLE_EPISODES
    main = case.label == MAIN.get(case.recipe, case.recipe)
    optimal = case.method.baseline.startswith("optimal") and case.method.credit == "reward_to_go"
    return every if main or optimal else every[:1]


def sampled_by(method: Method) -> np.ndarray:
    """θ of the policy that sampled the batches."""
    return THETA if method.sampler is None else np.array(method.sampler)


def row(case: Case, path: Path) -> Row:
    """One row of the table. Only `make_trainer`, `init` and `sweeps.plan` may reject it."""
    try:
        run = _Run(case, path)
    except SettingError as refusal:
        return Row(case.label, path.label, refused=str(refusal))
    try:
        return _compared(run)
    except SettingError as failure:
        return Row(case.label, path.label, expected=math.inf, each=math.inf, failed=str(failure))


def _compared(run: "_Run") -> Row:
    case, path = run.case, run.path
    with blocks_of(path.cached_steps) if path.cached_steps else nullcontext():
        found = run.by_deal()
    each, directions, tangents = [], [], []
    for after, tangent, deal in found:
        reference = numpy_updates(run.method, path.problem, path.num_steps, path.num_envs, deal)
        each.append(np.max(np.abs(after - reference.after)))
        directions.append(reference.probability @ reference.direction)
        tangents.append(run.batches.probability @ tangent)
    expected = float(np.max(np.abs(np.mean(tangents, 0) - np.mean(directions, 0))))
    worst, batches = float(np.max(each)), len(run.batches.probability)  # np.max keeps NaN
    return Row(case.label, path.label, batches, len(found), expected, worst, run.bias(tangents))


@contextmanager
def acting(actions: Actions) -> Iterator[None]:
    """Use another action space: `cases()` and `row` in the body apply to it."""
    every = combinations(actions.space)
    spaces, _, structure = parts(actions.space)
    columns = [np.reshape(x, (len(actions.reward[0]), -1)) for x in structure.flatten_up_to(every)]
    one_hot, allowed = [], np.ones_like(actions.reward)
    for part, mask, numbers in zip(spaces, actions.masks, columns, strict=True):
        counts: tuple[int, ...] = part.counts  # type: ignore[union-attr]  (no Box)
        own = np.concatenate([np.eye(n)[x] for n, x in zip(counts, numbers.T, strict=True)], axis=1)
        one_hot.append(own)
        allowed *= 1.0 if mask is None else (mask @ own.T == len(counts))
    theta, t = actions.theta, actions.transition
    endless = np.zeros_like(t)  # few rollouts: to the other state, except for an action that ends the episode
    endless[0, :-1, 1] = endless[1, :, 0] = 1.0
    elsewhere = {
        "THETA": theta,
        "REFERENCE": tuple(map(tuple, 0.5 * theta + 0.1)),
        "SAMPLER": tuple(map(tuple, 0.6 * theta - 0.1)),
        "EARLIER": (Tables(theta + 0.1 * np.cos(theta)), Tables(0.5 * np.sin(3 * theta))),
        "CRITICS": CRITICS | {"action": 0.4 * actions.reward + 0.1},
        "PROBLEMS": {
            "three steps": (oracle.make_mdp(EITHER, t, actions.reward, horizon=2, discount=0.9), False),
            "two steps": (oracle.make_mdp(EITHER, t, actions.reward, horizon=2, discount=0.9), False),
            "one start": (oracle.make_mdp(FIRST, t, actions.reward, horizon=2, discount=0.9), False),
            "stream": (oracle.make_mdp(FIRST, endless, actions.reward, horizon=2, discount=0.9), True),
            "short stream": (oracle.make_mdp(FIRST, t, actions.reward, horizon=2, discount=0.9), True),
        },
        "SPACE": actions.space,
        "MASKS": actions.masks,
        "_KEYS": {},
    }
    _forget()
    try:
        with (
            mock.patch.multiple(sys.modules[__name__], **elsewhere),
            mock.patch.multiple(plain, FEATURES=np.concatenate(one_hot, axis=1), ALLOWED=allowed),
        ):
            yield
    finally:
        _forget()


def _forget() -> None:
    numpy_updates.cache_clear()
    _listed.cache_clear()


@contextmanager
def blocks_of(steps: int) -> Iterator[None]:
    """Use blocks of this many steps on a CPU, whatever the size of its cache."""
    with mock.patch.object(blocks, "CACHED_STEPS", steps):
        yield


class _Run:
    """pgjax's results of a row."""

    def __init__(self, case: Case, path: Path):
        self.case, self.path = case, path
        self.mdp, time_limit = PROBLEMS[path.problem]
        self.recipe = _made(case)
        usual = self.recipe.config
        settings: dict[str, Any] = {"epochs": min(usual.epochs, 2), "group_size": 1, "minibatches": 1}
        settings |= {"shuffle": "environments", "num_envs": path.num_envs, "num_steps": path.num_steps} | path.config
        self.config: Config = replace(usual, **settings)
        agent = oracle.tabular_agent(self.mdp, self.config.critic, actions=SPACE, masks=MASKS)
        environment = oracle.environment(self.mdp, time_limit=time_limit, actions=SPACE)
        self.trainer = make_trainer(environment, agent, self.config)
        self.algorithm = self.recipe.algorithm._replace(max_grad_norm=path.max_grad_norm)
        if path.standardise:
            if case.recipe in NOTHING_TO_STANDARDISE:  # the same error as on the command line
                raise SettingError("standardise", True, f"does nothing: {NOTHING_TO_STANDARDISE[case.recipe]}")
            estimator = self.algorithm.estimator
            self.algorithm = self.algorithm._replace(
                estimator=estimator._replace(credit=standardised(estimator.credit))
            )
        value = CRITICS[self.config.critic]
        self.params = {"policy": jnp.asarray(THETA), "value": jnp.asarray(value) if value.size else {}}
        self.state = self.trainer.init(self.numbered(RATE, STEP), jax.random.key(0))._replace(params=self.params)
        if self.algorithm.momentum is not None and case.method.momentum is not None:
            earlier = [{"policy": jnp.asarray(x.policy), "value": self.params["value"]} for x in EARLIER]
            self.state = self.state._replace(previous=tuple(earlier), update=jnp.int32(1))
        if self.state.reference is not None:
            self.state = self.state._replace(reference=self.params | {"policy": jnp.asarray(np.array(REFERENCE))})
        with np.errstate(divide="ignore"):  # log 0 of masked actions
            log_probs = np.log(plain.softmax(sampled_by(case.method)))
        self.rollouts = oracle.list_rollouts(self.mdp, self.config, time_limit=time_limit)
        self.rows = oracle.as_rows(self.mdp, self.rollouts, log_probs, SPACE)
        self.batches = oracle.list_batches(self.mdp, self.rollouts, log_probs, path.num_envs, self.config.group_size)
        self.mesh = None
        if path.devices > 1:
            sweeps.plan(self.trainer, self.algorithm, 1, mesh=(1, path.devices))  # rejects impossible layouts
            self.mesh = Mesh(np.array(jax.devices()[: path.devices]), (ENV_AXIS,))
        self.method = replace(
            case.method,
            mean=self.config.mean,
            epochs=self.config.epochs,
            group_size=self.config.group_size,
            discounted_objective=self.config.discounted_objective,
            standardise=path.standardise,
            max_grad_norm=path.max_grad_norm,
            longest=self.mdp.horizon,
        )

    def numbered(self, rate: Any, step: Any) -> Any:
        """The algorithm with plain gradient steps of a given rate, or natural steps of a given size."""
        algorithm = self.algorithm._replace(optimizer=Partial(optax.sgd, learning_rate=rate))
        if algorithm.policy_step is None:
            return algorithm
        return with_hyperparameters(algorithm, {"step_size": step})

    def by_deal(self) -> list[tuple[np.ndarray, np.ndarray, Any]]:
        """For every partition: new parameters [B, P], their derivative in α at 0 [B, P], and the partition."""
        replaying = self.config.accumulate > 1
        keys = None
        if replaying:
            keys = _replay_keys(
                self, self.path.problem, self.path.num_envs, self.path.num_steps, self.config.group_size
            )

        def after(numbers: Any, key: Any) -> Any:
            algorithm, state = self.numbered(*numbers), self.state._replace(key=key)
            if keys is not None:
                params = oracle.every_replayed_update(self.trainer, algorithm, state, keys)
            else:
                params = oracle.every_update(self.trainer, algorithm, state, self.rows, self.batches.members, self.mesh)
            return _flat(params)

        several = self.config.epochs * self.config.minibatches > 1 or self.method.policy_step != "none"
        numbers = jnp.array([RATE, STEP])
        if several:
            program = jax.jit(lambda x, key: jax.jvp(lambda x: after(x, key), (x,), (jnp.ones(2),)))
        else:
            program = jax.jit(lambda x, key: (after(x, key), None))
        before = np.asarray(_flat(jax.tree.map(lambda x: x[None], self.params)))

        def found(key: Any) -> tuple[np.ndarray, np.ndarray]:
            new = np.asarray(program(numbers, key)[0])
            if not several:
                return new, (new - before) / RATE
            tangent = np.asarray(program(0.0 * numbers, key)[1])
            if self.method.policy_step == "trust_region":  # at 0 its line search rejects the step; near 0 it is linear
                close = np.asarray(program(jnp.array([0.0, NEAR]), key)[0])
                tangent = np.where(np.arange(before.size) < THETA.size, (close - before) / NEAR, tangent)
            return new, tangent

        if self.config.minibatches == 1:
            key = jax.random.key(0)
            return [(*found(key), None)]
        distinct: dict[bytes, Any] = {}
        for key in jax.random.split(jax.random.key(1), KEYS):
            new = np.asarray(program(numbers, key)[0])
            distinct.setdefault(np.round(new, 9).tobytes(), key)
        each = [found(key) for key in distinct.values()]
        return [(new, tangent, self.deal_of(new)) for new, tangent in each]

    def deal_of(self, new: np.ndarray) -> Any:
        """The partition into minibatches for which the reference is closest on a few batches."""
        few = np.linspace(1, len(new) - 2, 9).astype(int)
        one = _partitions(self.config, self.path)

        def distance(deal: Any) -> float:
            r = numpy_updates(self.method, self.path.problem, self.path.num_steps, self.path.num_envs, deal, tuple(few))
            return float(np.max(np.abs(r.after - new[few])))

        return min(itertools.product(one, repeat=self.config.epochs), key=distance)

    def bias(self, tangents: list[np.ndarray]) -> float | None:
        """Relative bias of the mean policy step against ∇J."""
        if self.config.rollout == "stream" or self.case.method.momentum is not None:
            return None
        exact = np.ravel(oracle.exact_gradient(self.mdp, _log_policy, jnp.asarray(THETA)))
        steps = self.config.epochs * self.config.minibatches
        step = np.mean(tangents, 0)[: exact.size] / steps
        return float(np.linalg.norm(step - exact) / np.linalg.norm(exact))


def _log_policy(theta: Any) -> Any:
    """log π(a|s) of all actions, [S, A]."""
    features = np.eye(THETA.shape[1]) if plain.FEATURES is None else plain.FEATURES
    logits = theta @ features.T
    return jax.nn.log_softmax(logits if plain.ALLOWED is None else jnp.where(plain.ALLOWED > 0, logits, -1e9))


def _made(case: Case) -> Any:
    bound = case.recipe == "truncated_is"  # a constant of its surrogate, not an argument of the recipe
    given = {k: v for k, v in case.given.items() if not (bound and k == "max_weight")}
    other = {} if "reference_kl" in signature(ALGORITHMS[case.recipe]).parameters else by_reference(given)
    recipe = ALGORITHMS[case.recipe](discount=0.9, **{k: v for k, v in given.items() if k not in other})
    if other:
        recipe = with_reference(recipe, other["reference_kl"], other["reference_coefficient"])
    if bound:
        algorithm = with_hyperparameters(recipe.algorithm, {"max_weight": case.given["max_weight"]})
        recipe = recipe._replace(algorithm=algorithm)
    return recipe


def by_reference(given: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a case that concern the reference policy."""
    return {k: v for k, v in given.items() if k.startswith("reference")}


def _flat(params: Any) -> Any:
    """Parameters as [B, P], the policy first."""
    leaves = [params["policy"], *jax.tree.leaves(params["value"])]
    return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


_KEYS: dict[tuple, Any] = {}


def _replay_keys(run: _Run, *where: Any) -> Any:
    """Replay keys by problem and batch shape; they depend on the policy only."""
    if where not in _KEYS:
        _KEYS[where] = oracle.keys_of_batches(run.trainer, run.algorithm, run.state, run.rollouts, run.batches)
    return _KEYS[where]


def _partitions(config: Config, path: Path) -> list[tuple]:
    """Every partition of the rows of a batch into ordered minibatches of equal size."""
    rows: list[Any] = list(range(path.num_envs))
    if config.shuffle == "steps":
        rows = list(itertools.product(rows, range(path.num_steps)))

    def dealt(left: list) -> Iterator[tuple]:
        if not left:
            yield ()
            return
        for part in itertools.combinations(left, len(rows) // config.minibatches):
            for rest in dealt([x for x in left if x not in part]):
                yield (part, *rest)

    return list(dealt(rows))


# Reference


@dataclass(frozen=True)
class Reference:
    """Per batch: probability [B], new parameters and sum of the directions at α = 0, [B, P]."""

    probability: np.ndarray
    after: np.ndarray
    direction: np.ndarray


@cache
def numpy_updates(
    method: Method, problem: str, num_steps: int, num_envs: int, deal: Any, only: tuple | None = None
) -> Reference:
    """Reference updates of all or some batches under one partition into minibatches."""
    chances, listed = _listed(problem, num_steps, num_envs, method.group_size, method.sampler)
    critic = {"none": "none", "reward_to_go": "state"}.get(method.target, "state")
    critic = "action" if method.surrogate in ("all_action", "doubly_robust") else critic
    before = Tables(THETA, CRITICS[critic])
    first, second = (Tables(x.policy, before.value) for x in EARLIER)
    earlier = None if method.momentum is None else (first, second)
    after, direction = [], []
    chosen = range(len(listed)) if only is None else only
    one_step = method.epochs == 1 and deal is None and method.policy_step == "none"
    for b in chosen:
        batch = listed[b]
        deals = None if deal is None else [[_rows(part, batch) for part in parts] for parts in deal]
        found = plain.update(method, before, batch, deals, earlier)
        after.append(np.concatenate([found.after.policy.ravel(), found.after.value.ravel()]))
        if not one_step and only is None:
            found = plain.update(replace(method, rate=0.0, step_size=0.0), before, batch, deals, earlier)
        direction.append(np.concatenate([found.direction.policy.ravel(), found.direction.value.ravel()]))
    return Reference(chances[list(chosen)], np.array(after), np.array(direction))


def _rows(part: tuple, batch: tuple[Steps, ...]) -> list:
    if part and isinstance(part[0], tuple):
        return list(part)
    return [(n, t) for n in part for t in range(len(batch[n]))]


@cache
def _listed(
    problem: str, num_steps: int, num_envs: int, group_size: int, sampler: tuple | None
) -> tuple[np.ndarray, list]:
    """The batches of the reference with their probabilities, in the order of pgjax."""
    mdp, time_limit = PROBLEMS[problem]
    theta = THETA if sampler is None else np.array(sampler)
    streaming = problem.endswith("stream")
    found = (
        plain.streams(mdp, theta, num_steps, time_limit=time_limit)
        if streaming
        else plain.episodes(mdp, theta, time_limit=time_limit)
    )
    chance = {steps: p for p, steps in found}
    config = Config(rollout="stream", num_steps=num_steps) if streaming else Config()
    rollouts = oracle.list_rollouts(mdp, config, time_limit=time_limit)
    with np.errstate(divide="ignore"):  # of actions that a mask forbids
        members = oracle.list_batches(mdp, rollouts, np.log(plain.softmax(theta)), num_envs, group_size).members
    columns = {int(k): _as_steps(mdp, rollouts, k) for k in np.unique(members)}
    assert set(columns.values()) == set(chance) and len(columns) == len(chance)
    chances, batches = [], []
    for chosen in members:
        batch = tuple(columns[k] for k in chosen)
        p = 1.0
        for n, steps in enumerate(batch):
            p *= chance[steps]
            if n % group_size:  # a group shares its initial state
                p /= mdp.initial[steps.states[0]]
        chances.append(p)
        batches.append(batch)
    chances = np.array(chances)
    assert abs(chances.sum() - 1.0) < 1e-12
    return chances, batches


def _as_steps(mdp: oracle.MDP, rollouts: Any, k: int) -> Steps:
    steps = Steps()
    for t in range(int(rollouts.mask[:, k].sum())):
        s, a = int(rollouts.state[t, k]), int(rollouts.action[t, k])
        ended, cut = bool(rollouts.terminated[t, k]), bool(rollouts.truncated[t, k])
        following = -1 if ended else int(rollouts.next_state[t, k])
        steps = steps.then(s, a, float(mdp.reward[s, a]), ended, cut, following, int(rollouts.time[t, k]))
    return steps
