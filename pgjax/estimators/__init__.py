"""Pure functions of arrays: credits, surrogates, their products, policy steps and action distributions."""

from pgjax.estimators.products import all_action, doubly_robust, product
