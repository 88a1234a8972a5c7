"""What `--help` shows: every flag in one group, the common ones first, lines that fit a terminal."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import tune

from pgjax.runs.settings.command_line import from_command_line, show_flags
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.groups import COMMON, GROUPS

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
NAMES = {field.name for field in fields(Settings)}


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def flags(text: str) -> Counter[str]:
    """How often each flag has an entry, by the name of its field; boxes are drawn where the output is UTF-8."""
    found = re.findall(r"^[│ ] --([a-z][\w-]*)", text, re.MULTILINE)
    return Counter({"import": "imports"}.get(name, name.replace("-", "_")) for name in found)


def test_every_flag_stands_in_one_group_and_in_the_help_of_all():
    assert Counter(field.name for group in GROUPS.values() for field in fields(group)) == Counter(NAMES)
    assert COMMON < NAMES
    issue = ("run", "environment", "method", "network", "batch", "optimiser", "evaluation", "devices", "logs")
    assert tuple(GROUPS) == issue


@pytest.mark.parametrize(("flag", "names"), [("--help", COMMON), ("-h", COMMON), ("--help-all", NAMES)])
def test_help_shows_the_common_flags_and_help_all_all(capsys, flag, names):
    with pytest.raises(SystemExit) as end:
        from_command_line([flag], description="One\nline.")
    text = capsys.readouterr().out
    assert not end.value.code and text.startswith("One line.\n")
    assert flags(text) == Counter(names)
    assert max(map(len, text.splitlines())) == 80
    assert [name for name in GROUPS if f" {name} options " in text] == [
        name for name, group in GROUPS.items() if {field.name for field in fields(group)} & names
    ]
    assert ("--help-all shows all" in text) == (flag != "--help-all")


def test_defaults_are_those_of_the_base(capsys):
    for arguments, default in (([], "400000"), (["--total-steps", "7"], "400000"), (["--quick"], "4000")):
        with pytest.raises(SystemExit):
            from_command_line(["--no-tuned", *arguments, "--help"])
        assert re.search(rf"--total-steps[^-]*default: {default}\)", capsys.readouterr().out)


def test_the_search_shows_its_own_flags_and_those_of_training_that_do_something(capsys):
    show_flags(Settings(), "", prog="tune.py", whole=True, first={"search": tune.Search()}, without=tune.WITHOUT)
    text = capsys.readouterr().out
    own = {field.name for field in fields(tune.Search)}
    assert flags(text) == Counter((NAMES - set(tune.WITHOUT)) | own)
    assert max(map(len, text.splitlines())) == 80


SCRIPTS = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


@pytest.mark.costly
@pytest.mark.parametrize("name", [n if n == "render" else pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS])
def test_the_help_of_every_script_fits_80_columns(name):
    command = [sys.executable, f"experiments/{name}.py", "--help"]
    done = subprocess.run(command, cwd=EXPERIMENTS.parent, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == ""
    assert 20 < max(map(len, done.stdout.splitlines())) <= 80
