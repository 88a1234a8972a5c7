"""The mathematics: arrays in, arrays out. Credits, surrogates, their products, steps and distributions."""

from pgjax.estimators.products import all_action, doubly_robust, product
