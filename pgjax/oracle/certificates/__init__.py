"""Certificates of losses: exact mean and variance of −∇loss over every batch of small problems."""

from pgjax.oracle.certificates.arrays import ARRAYS
from pgjax.oracle.certificates.certificate import Certificate, certify
from pgjax.oracle.certificates.frameworks import torch_gradient
from pgjax.oracle.certificates.library import estimator_loss
from pgjax.oracle.certificates.objectives import OBJECTIVES, Objective, objective_gradient
from pgjax.oracle.certificates.problems import Problem, default_problems, problem
