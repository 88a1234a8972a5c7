"""flax's GRUCell in two halves, with its parameters: what its gates take from the input, and what from the carry.

The first half is one matrix product for all steps of a batch, and no longer one per step in the loop over time.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class Inputs(nn.Module):
    """The gates' products with the input, [..., 3 · width]: reset, update, new."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., features] -> [..., 3 · width]."""
        return jnp.concatenate([nn.Dense(self.width, name=name)(x) for name in ("ir", "iz", "in")], axis=-1)


class Step(nn.Module):
    """The rest of a step (Cho et al. 2014, with the reset gate behind the product, as cuDNN has it).

        r = σ(i_r + W_r h),  z = σ(i_z + W_z h),  n = tanh(i_n + r (W_n h + b_n)),  h' = (1 − z) n + z h

    >>> import jax
    >>> cell, h, x = nn.GRUCell(4), jnp.full((2, 4), 0.5), jnp.ones((2, 3))
    >>> params = cell.init(jax.random.key(0), h, x)
    >>> after, _ = Step(4).apply(params, h, Inputs(4).apply(params, x))
    >>> bool(jnp.allclose(after, cell.apply(params, h, x)[0], rtol=1e-6))
    True
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
