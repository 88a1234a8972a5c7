"""An independent computation of the exact table: plain recursion and loops in numpy, sharing no code with pgjax."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Path:
    states: list
    actions: list
    rewards: np.ndarray  # γ^t in front
    probability: float  # under the policy
    scores: np.ndarray  # [T, S*A], gradients of log π(a_t|s_t) in the logits


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def paths(mdp, logits):
    pi = softmax(np.asarray(logits))
    found = []

    def walk(states, actions, weight):
        s = states[-1]
        for a in range(pi.shape[1]):
            now, chance = [*actions, a], weight * pi[s, a]
            if len(now) == mdp.horizon:
                found.append((states, now, chance))
                continue
            stop = 1.0 - mdp.transition[s, a].sum()
            if stop > 1e-15:
                found.append((states, now, chance * stop))
            for s2, p in enumerate(mdp.transition[s, a]):
                if p > 0:
                    walk([*states, s2], now, chance * p)

    for s, p in enumerate(mdp.initial):
        if p > 0:
            walk([s], [], p)

    result = []
    for states, actions, chance in found:
        rewards = np.array([mdp.discount**t * mdp.reward[s, a] for t, (s, a) in enumerate(zip(states, actions))])
        scores = np.zeros((len(actions), *pi.shape))
        for t, (s, a) in enumerate(zip(states, actions)):
            scores[t, s] -= pi[s]
            scores[t, s, a] += 1.0
        result.append(Path(states, actions, rewards, chance, scores.reshape(len(actions), -1)))
    return result


def objective(mdp, logits):
    return sum(p.probability * p.rewards.sum() for p in paths(mdp, logits))


def gradient(mdp, logits, step=1e-6):
    """∇J by central differences of the objective: no score function anywhere."""
    logits = np.asarray(logits, float)
    result = np.zeros(logits.size)
    for k in range(logits.size):
        e = np.zeros(logits.size)
        e[k] = step
        e = e.reshape(logits.shape)
        result[k] = (objective(mdp, logits + e) - objective(mdp, logits - e)) / (2 * step)
    return result


def moments(weighted):
    """Mean and trace of the covariance of [(probability, vector)]."""
    mean = sum(p * g for p, g in weighted)
    return mean, sum(p * np.sum((g - mean) ** 2) for p, g in weighted)


def to_go(rewards):
    return np.cumsum(rewards[::-1])[::-1]
