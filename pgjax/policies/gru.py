"""flax's GRUCell, with the same parameters, split into its products with the input and those with the carry.

The first half is one matrix product for all steps of a batch, instead of one per step within the loop over time.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class Inputs(nn.Module):
    """Products of the gates with the input, [..., 3 · width]: reset, update, new."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., features] -> [..., 3 · width]."""
        return jnp.concatenate([nn.Dense(self.width, name=name)(x) for name in ("ir", "iz", "in")], axis=-1)


class Step(nn.Module):
    """The rest of a GRU step, with the reset gate after the product, as in cuDNN (Cho et al. 2014):

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
