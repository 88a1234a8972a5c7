"""The list of available environments as text."""

from pgjax.environments.packages import NotInstalled
from pgjax.environments.table import FAMILIES, by_family
from pgjax.release import pip_install
from pgjax.types import SettingError


def environments_by_family() -> str:
    """Names of all environments, one per line, by family; for an unavailable family, the reason in one line."""

    def lines(family: str, names: list[str] | SettingError) -> list[str]:
        if isinstance(names, NotInstalled):
            return [f"{family}: not installed: {pip_install(FAMILIES[family].EXTRA)}"]
        if isinstance(names, SettingError):
            return [f"{family}: cannot be used: {str(names).removeprefix(f'environment: {family!r} ')}"]
        return names

    return "\n\n".join("\n".join(lines(family, names)) for family, names in by_family())
