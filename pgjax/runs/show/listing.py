"""The environments that can be trained on, as text."""

from pgjax.environments.table import FAMILIES, by_family


def environments_by_family() -> str:
    """Every name, one a line, family by family; for a family that is not installed, the extra that installs it.

    >>> "CartPole-v1" in environments_by_family().splitlines()
    True
    """

    def lines(family: str, names: list[str] | None) -> list[str]:
        return [f'{family}: not installed: pip install -e ".[{FAMILIES[family].EXTRA}]"'] if names is None else names

    return "\n\n".join("\n".join(lines(family, names)) for family, names in by_family())
