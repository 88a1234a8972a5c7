"""Derivatives in log π to derivatives in the logits of a tabular softmax policy."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log π(a|s), [S, A]."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def score_tables(logits: np.ndarray) -> np.ndarray:
    """∇ log π(a|s) in the flattened logits, [S, A, P]."""
    states, actions = logits.shape
    pi = np.exp(log_softmax(logits))
    scores = np.zeros((states, actions, states, actions))
    for s in range(states):
        scores[s, :, s, :] = np.eye(actions) - pi[s]
    return scores.reshape(states, actions, -1)


def logit_gradient(slope: np.ndarray, state: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Gradient in the flattened logits, [B, P], from the slopes in every log π(a|s_t), [B, T, N, A], 0 on padding:

    ∂/∂θ(s, a) = Σ_{t,n: s_t = s} [ slope(t, n, a) − π(a|s) Σ_a' slope(t, n, a') ]
    """
    visits = state[..., None] == np.arange(len(logits))  # [B, T, N, S]
    total = np.einsum("btns,btna->bsa", visits.astype(float), slope)
    return (total - total.sum(-1, keepdims=True) * np.exp(log_softmax(logits))).reshape(len(slope), -1)
