"""Modules under the names they had before they were sorted into folders: imports written for those go on working."""

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
"""Former name -> name today, both below `pgjax`; two where the former module held two ideas."""


class _Finder(MetaPathFinder, Loader):
    """Finds a former name and gives the module that has taken its place: one module, two names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "pgjax" and name in FORMER else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        names = FORMER[spec.name.partition(".")[2]]
        if isinstance(names, str):
            return import_module(f"pgjax.{names}")
        both = ModuleType(spec.name)
        for name in names:
            both.__dict__.update(import_module(f"pgjax.{name}").__dict__)
        return both

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it has been executed under its own name."""


def install() -> None:
    """Let `import pgjax.losses` and the like find their modules.

    >>> from pgjax.losses import Batch
    >>> Batch.__module__
    'pgjax.training.loss'
    """
    sys.meta_path.append(_Finder())
