"""Import hook for modules under their former names, so that older imports keep working."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FORMER: dict[str, str | tuple[str, ...]] = {
    "recurrence": "estimators.recurrence",
    "importance": "estimators.importance",
    "returns": "estimators.returns",
    "advantages": "estimators.advantages",
    "baselines": "estimators.baselines",
    "surrogates": "estimators.surrogates",
    "steps": "estimators.steps",
    "distributions": "estimators.distributions",
    "value_estimates": "estimators.value_estimates",
    "statistics": "estimators.reductions",
    "agents": "policies.build",
    "networks": "policies.networks",
    "normalisation": "policies.normalisation",
    "brax_environments": "environments.brax",
    "rollout": "training.rollout",
    "losses": ("training.loss", "training.signals"),
    "gradients": "training.gradients",
    "collection": "training.batch",
    "sharing": "estimators.reductions",
    "shuffle": "training.minibatches",
    "compatibility": "training.checks",
    "guard": "training.guard",
    "minibatches": "training.minibatches",
    "evaluation": "training.evaluation",
    "diagnostics": "training.monitors",
    "hyperparameters": "methods.hyperparameters",
    "schedules": "methods.schedules",
    "algorithms": "methods",
    "actor_critics": "methods.actor_critic",
    "runtime": "engine.startup",
    "meshes": "engine.devices",
    "processes": "engine.hosts",
    "lab": "runs",
    "lab.files": "runs.record.files",
    "lab.checkpoints": "runs.record.checkpoints",
    "lab.figures": "runs.show.figures",
}
"""Former name -> current name, both below `pgjax`; two names where the former module was split."""


class _Finder(MetaPathFinder, Loader):
    """Finds a former name and loads the module that replaced it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "pgjax" and name in FORMER else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        names = FORMER[spec.name.partition(".")[2]]
        if isinstance(names, str):
            return import_module(f"pgjax.{names}")
        merged = ModuleType(spec.name)
        for name in names:
            merged.__dict__.update(import_module(f"pgjax.{name}").__dict__)
        return merged

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module was executed under its current name."""


def install() -> None:
    """Make former names such as `pgjax.losses` importable.

    >>> from pgjax.losses import Batch
    >>> Batch.__module__
    'pgjax.training.loss'
    """
    sys.meta_path.append(_Finder())
