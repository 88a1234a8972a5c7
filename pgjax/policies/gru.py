"""flax's GRUCell, with the same parameters, split into its products with the input and those with the carry.

The first half is computed for all steps of a batch at once, instead of step by step in the loop over time. The second
half is a flax module for one step, and a loop over all steps with a derivative of its own.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import optimization_barrier

from pgjax.policies.products import product
from pgjax.types import Params


class InputProducts(nn.Module):
    """Products of the gates with the input, [..., 3 · width]: reset, update, new."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., features] -> [..., 3 · width]."""
        gates = [nn.Dense(self.width, name=name, dot_general=product)(x) for name in ("ir", "iz", "in")]
        return jnp.concatenate(gates, axis=-1)


class Step(nn.Module):
    """The rest of a GRU step (Cho et al. 2014), with the reset gate after the product, as in cuDNN:

    r = σ(i_r + W_r h),  z = σ(i_z + W_z h),  n = tanh(i_n + r (W_n h + b_n)),  h' = (1 − z) n + z h
    """

    width: int

    @nn.compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """(h [..., width], [..., 3 · width]) -> (h', h')."""
        reset, update, new = jnp.split(inputs, 3, axis=-1)
        r = nn.sigmoid(reset + nn.Dense(self.width, use_bias=False, name="hr")(carry))
        z = nn.sigmoid(update + nn.Dense(self.width, use_bias=False, name="hz")(carry))
        n = nn.tanh(new + r * nn.Dense(self.width, name="hn")(carry))
        carry = (1.0 - z) * n + z * carry
        return carry, carry


def along(params: Params, initial: Array, first: Array, inputs: Array, ended: Array) -> tuple[Array, Array]:
    """`Step` at all steps of a batch, with its parameters. Returns its output twice, [T, N, width]: carry and features.

    The gradient in the weights is one matrix product for all steps, after the loop that goes back in time.
    Args:
      initial: h at the start of an episode, which follows each row that `ended`, [T, N]. No gradient flows into it.
      first: h before the first row, [N, width].
      inputs: [T, N, 3 · width].
    """
    weights = jnp.concatenate([params[name]["kernel"] for name in ("hr", "hz", "hn")], axis=-1)
    out = _loop(weights, params["hn"]["bias"], initial, first, inputs, ended)
    return out, out


@jax.custom_vjp
def _loop(weights: Array, bias: Array, initial: Array, first: Array, inputs: Array, ended: Array) -> Array:
    return _forward(weights, bias, initial, first, inputs, ended)[0]


def _forward(
    weights: Array, bias: Array, initial: Array, first: Array, inputs: Array, ended: Array
) -> tuple[Array, tuple]:
    """h' at all steps; and what the gradient needs: h', r and z, m = W_n h + b_n, n."""
    width = first.shape[-1]

    def step(h: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, ...]]:
        (of_gates, of_new), end = jnp.split(now[0], [2 * width], axis=-1), now[1]
        h_gates, h_new = jnp.split(h @ weights, [2 * width], axis=-1)
        # Without barriers, XLA computes the gates again for each use, and without vector instructions.
        gates = optimization_barrier(nn.sigmoid(of_gates + h_gates))
        (r, z), m = jnp.split(gates, 2, axis=-1), h_new + bias[None]
        n = optimization_barrier(jnp.tanh(of_new + r * m))
        after = (1.0 - z) * n + z * h
        return jnp.where(end[:, None], initial[None], after), (after, gates, m, n)

    after, *kept = jax.lax.scan(step, first, (inputs, ended))[1]
    return after, (weights, bias, initial, first, inputs, ended, after, *kept)


def _backward(kept: tuple, d_after: Array) -> tuple:
    """Cotangents of the arguments of `_loop`, from that of h' (d_x is the cotangent of x, where σ' = σ (1 − σ)):

    d_new = d_h' (1 − z) (1 − n²),  d_r = d_new m r (1 − r),  d_z = d_h' (h − n) z (1 − z),  d_m = d_new r

    The factors of d_h' are computed for all steps at once, before the loop that goes back in time.
    """
    *args, after, gates, m, n = kept
    weights, _, initial, first, _, ended = args
    width, transposed = first.shape[-1], weights.T
    h = jnp.concatenate([first[None], jnp.where(ended[:-1, :, None], initial, after[:-1])])  # before each row
    r, z = jnp.split(gates, 2, axis=-1)
    # Barriers here and below, because XLA computes a concatenation's parts without vector instructions.
    h, of_new = optimization_barrier((h, (1.0 - z) * (1.0 - n * n)))
    factors = optimization_barrier((of_new * m * r * (1.0 - r), (h - n) * z * (1.0 - z), of_new * r))

    def step(d_next: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        """From the cotangent of the next row's h to that of this row's."""
        d_out, end, z, *factors = now
        d = optimization_barrier(d_out + jnp.where(end[:, None], 0.0, d_next))
        return d * z + optimization_barrier(_times(d, factors) @ transposed), d

    d_first, d = jax.lax.scan(step, jnp.zeros_like(first), (d_after, ended, z, *factors), reverse=True)
    d_products = _times(d, factors)
    d_weights = h.reshape(-1, width).T @ d_products.reshape(-1, 3 * width)
    d_gates, d_m = jnp.split(d_products, [2 * width], axis=-1)
    d_inputs = jnp.concatenate(optimization_barrier((d_gates, d * of_new)), axis=-1)
    found = d_weights, jnp.sum(d_m, axis=(0, 1)), jnp.zeros_like(initial), d_first, d_inputs
    return *(d.astype(x.dtype) for d, x in zip(found, args[:5], strict=True)), None  # none for `ended`


def _times(d: Array, factors: Sequence[Array]) -> Array:
    """The products d · factor, side by side."""
    return optimization_barrier(jnp.concatenate(optimization_barrier([d * x for x in factors]), axis=-1))


_loop.defvjp(_forward, _backward)
