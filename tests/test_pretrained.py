"""Trained policies: what is written is read back, what does not fit is refused, and each earns what its card says."""

import hashlib
import os
import re
import runpy
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from pgjax import SettingError, evaluate, load_policy, pretrained
from pgjax.environments.packages import NotInstalled
from pgjax.pretrained import weights
from pgjax.pretrained.save import card_text, digest
from pgjax.runs.record import checkpoints, files
from pgjax.runs.settings.build import build
from pgjax.runs.settings.config_file import config_text, recorded
from pgjax.runs.settings.flags import Settings

SCRIPT = Path(__file__).parents[1] / "experiments" / "pretrained.py"
SMALL = {
    "plain": Settings(environment="Catch-bsuite", algorithm="ppo", hidden=(8,), seeds=3),
    "memory": Settings(environment="MemoryChain-bsuite", algorithm="ppo", hidden=(8,), seeds=3, memory="gru"),
    "normalised": Settings(
        environment="Pendulum-v1", algorithm="npg", hidden=(8,), seeds=3, normalise_observations=True
    ),
    "image": Settings(environment="pgx/minatar-breakout", algorithm="ppo", hidden=(8,), seeds=3),
    "named": Settings(environment="FrozenLake-misc:map_name=8x8", algorithm="reinforce", seeds=3),
}
GREEDY = [0.25, 0.75, 0.5]  # of the seeds


@pytest.fixture(scope="module")
def script():
    names = runpy.run_path(str(SCRIPT))
    names["main"].__globals__["start"] = lambda devices: None  # jax has started here, with two
    return names


def write_run(path, settings, number=5):
    """The directory of a finished run, whose policies have learned nothing but have statistics that matter."""
    agent = build(settings).agent
    params = jax.vmap(agent.init)(jax.random.split(jax.random.key(number), settings.seeds))
    if agent.observe:
        seen = 3.0 + jax.random.normal(jax.random.key(6), (settings.seeds, 9, 1, 3))
        params = jax.vmap(agent.observe, in_axes=(0, 0, None))(params, seen, np.ones((9, 1)))
    path.mkdir(parents=True)
    (path / "config.toml").write_text(config_text(settings))
    seeds = range(settings.seeds)
    rows = [(u, 10 * u, s, float(u + s), 1) for u in range(1, 301) for s in seeds]
    files.write_table(path / "metrics.csv", ["update", "env_steps", "seed", "return_mean", "episodes"], rows)
    columns = ["seed", "env_steps", "sampled_return", "greedy_return", "final"]
    files.write_table(path / "evaluation.csv", columns, [(s, 3000, 0.0, GREEDY[s], 1) for s in seeds])
    os.utime(path / "evaluation.csv", (86400 * 366, 86400 * 366))  # 2 January 1971
    tree = {"seeds": np.arange(settings.seeds), "state": {"params": params}}
    checkpoints.save(path / "checkpoints", 1, tree, {"settings": recorded(settings), "score": 0.0})
    return path


def ship(script, folder, *runs, **options):
    script["add"](script["Shipping"](add=runs, folder=folder, episodes=64, commit="abc", **options))
    return folder


@pytest.fixture(scope="module")
def plain(script, tmp_path_factory):
    """A run and the folder of its policy."""
    path = tmp_path_factory.mktemp("plain")
    return write_run(path / "run", SMALL["plain"], number=2), ship(script, path / "policies", path / "run")


def acts_as(policy, setup, params):
    """The same distribution over actions; with a memory, the same returns."""
    both = (policy.agent, policy.params), (setup.agent, params)
    if policy.agent.memory:
        key = jax.random.key(3)
        distributions = [evaluate(policy.environment, *which, key, episodes=4) for which in both]
    else:
        seen, _ = policy.environment.reset(jax.random.key(3))
        distributions = [agent.policy(numbers, seen) for agent, numbers in both]
    jax.tree.map(np.testing.assert_array_equal, *distributions)


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "image" else k for k in SMALL])
def test_a_policy_is_that_of_the_best_seed_of_its_run(script, tmp_path, kind):
    """Parameters to the bit, statistics and memory included; so returns are the same."""
    run = write_run(tmp_path / "run", SMALL[kind])
    policy = load_policy(SMALL[kind].environment, folder=ship(script, tmp_path / "policies", run))
    setup, params = files.load_run(run, seed=1)
    jax.tree.map(np.testing.assert_array_equal, policy.params, params)
    assert jax.tree.structure(policy.params) == jax.tree.structure(params)
    assert (policy.environment.name, repr(policy.agent)) == (SMALL[kind].environment, repr(setup.agent))
    assert ("statistics" in policy.params) == SMALL[kind].normalise_observations
    acts_as(policy, setup, params)
    name = files.file_name(SMALL[kind].environment)
    assert {path.name for path in (tmp_path / "policies").iterdir()} == {f"{name}.{x}" for x in ("npz", "toml", "csv")}


@pytest.mark.costly
def test_what_a_card_says(plain):
    run, folder = plain
    card = pretrained.card("Catch-bsuite", folder=folder)
    assert (card.environment, card.algorithm, card.seed, card.env_steps) == ("Catch-bsuite", "ppo", 1, 3000)
    assert (card.date, card.commit, card.critic) == ("1971-01-02", "abc", "state")
    assert card.score.seeds == 3 and card.score.greedy == (0.5, 0.25, 0.75) and card.score.sampled == (0.0, 0.0, 0.0)
    resolved = tomllib.loads((run / "config.toml").read_text())
    versions = resolved.pop("versions")
    versions.pop("commit", None)  # the card has it by itself
    assert card.versions == versions and card.settings == resolved
    policy = load_policy("Catch-bsuite", folder=folder)
    returns = evaluate(*policy[:3], jax.random.key(card.evaluation.key), episodes=64, greedy=True)
    mean, deviation, episodes, key = card.evaluation
    np.testing.assert_allclose([mean, deviation], [np.mean(returns), np.std(returns, ddof=1)], rtol=1e-6)
    assert (episodes, key) == (64, (1 << 31) + 4)
    assert len(repr(policy)) < 120 and repr(policy).startswith("Policy(Catch-bsuite, ppo, seed 1, greedy return ")
    assert repr(card).startswith("Card(Catch-bsuite")


@pytest.mark.costly
def test_the_best_of_several_runs_is_shipped_and_the_score_is_of_all(script, tmp_path):
    settings = replace(SMALL["plain"], seeds=2)
    first, second = (write_run(tmp_path / f"{number}", settings, number) for number in (1, 2))
    text = (second / "evaluation.csv").read_text()
    (second / "evaluation.csv").write_text(text.replace("0.75", "0.875"))
    card = pretrained.card("Catch-bsuite", folder=ship(script, tmp_path / "policies", first, second))
    assert card.seed == 1 and card.score.seeds == 4 and card.score.greedy[0] == (0.25 + 0.75) / 2
    assert digest(files.load_run(second, seed=1)[1]) == card.sha256 != digest(files.load_run(first, seed=1)[1])


def test_the_same_runs_give_the_same_bytes(script, plain, tmp_path):
    run, folder = plain
    shutil.copytree(run, tmp_path / "copy")
    again = ship(script, tmp_path / "again", tmp_path / "copy")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_learning_curve_is_of_all_seeds_and_thin(plain):
    curve = np.genfromtxt(plain[1] / "Catch-bsuite.csv", delimiter=",", names=True)
    assert curve.dtype.names == ("env_steps", "return_mean", "low", "high") and 100 < len(curve) <= 200
    window = 300 // 50  # a mean over the last updates
    np.testing.assert_allclose(curve["return_mean"][-1], 300 + 1 - (window - 1) / 2)  # of seeds at +0, +1, +2
    assert curve["env_steps"][-1] == 3000 and all(curve["low"] < curve["return_mean"])


@pytest.mark.costly
def test_a_large_agent_keeps_its_policy_alone(script, tmp_path):
    settings = replace(SMALL["plain"], hidden=(220, 220))
    run = write_run(tmp_path / "run", settings)
    policy = load_policy("Catch-bsuite", folder=ship(script, tmp_path / "policies", run))
    setup, params = files.load_run(run, seed=1)
    assert policy.agent.value is None and policy.card.critic == "none"
    assert {name.partition("/")[0] for name in weights.named(policy.params)} == {"policy"}
    acts_as(policy, setup, params)


# What does not fit


def altered(folder, to, change):
    shutil.copytree(folder, to)
    change(to / "Catch-bsuite.npz", to / "Catch-bsuite.toml")
    return to


def flipped(npz, card):
    content = bytearray(npz.read_bytes())
    content[len(content) // 2] ^= 1
    npz.write_bytes(content)


def exchanged(params):
    """Other parameters, of which the card knows."""

    def change(npz, card):
        before = hashlib.sha256(npz.read_bytes()).hexdigest()
        npz.write_bytes(params if isinstance(params, bytes) else weights.as_bytes(params))
        card.write_text(card.read_text().replace(before, hashlib.sha256(npz.read_bytes()).hexdigest()))

    return change


def rewritten(old, new):
    return lambda npz, card: card.write_text(card.read_text().replace(old, new, 1))


def of_catch(hidden=(8,)):
    return build(replace(SMALL["plain"], hidden=hidden)).agent.init(jax.random.key(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flipped, "policy: .*npz' is damaged"),
        (lambda npz, card: npz.unlink(), "policy: .*npz' cannot be read: No such file"),
        (exchanged(b"no zip"), "policy: .*npz' is not an npz of parameters"),
        (exchanged({"policy": of_catch()["policy"]}), "policy: .* the agent of its card: the file lacks value/"),
        (exchanged(of_catch() | {"extra": np.ones(2)}), "policy: .* the agent of its card: only the file has extra"),
        (exchanged(of_catch(hidden=(9,))), r"policy: .* policy/\S+ is float32\[.*9\]; needs float32\[.*8\]"),
        (exchanged(jax.tree.map(lambda x: x * np.nan, of_catch())), "policy: .* not finite"),
        (rewritten("[score]", "[sco"), "card: .*toml' is not a policy card: "),
        (rewritten("episodes = 64\n", ""), "card: .*toml' is not a policy card: "),
        (rewritten('critic = "state"', 'critics = "state"'), "card: .*toml' is not a policy card: "),
        (
            rewritten('environment = "Catch-bsuite"', 'environment = "CartPole-v1"'),
            "card: .*toml' is not a policy card: its entries contradict",
        ),
    ],
)
def test_damaged_and_foreign_files_are_refused_in_one_line(plain, tmp_path, change, message):
    folder = altered(plain[1], tmp_path / "policies", change)
    with pytest.raises(SettingError, match=f"^{message}") as error:
        load_policy("Catch-bsuite", folder=folder)
    assert "\n" not in str(error.value)


def test_no_pickle_is_read(plain, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.savez(tmp_path / "trap.npz", **{"policy/w": np.array([Trap()], dtype=object)})
    content = (tmp_path / "trap.npz").read_bytes()
    folder = altered(plain[1], tmp_path / "policies", exchanged(content))
    with pytest.raises(SettingError, match="is not an npz of parameters"):
        load_policy("Catch-bsuite", folder=folder)
    assert not (tmp_path / "sprung").exists()


def test_names_that_are_not_there(plain, tmp_path):
    _, folder = plain
    assert pretrained.list(folder) == ["Catch-bsuite"] and pretrained.list(tmp_path) == []
    with pytest.raises(SettingError, match=r"^policy: 'catch' has no pretrained policy; the closest are Catch-bsuite$"):
        load_policy("catch", folder=folder)
    with pytest.raises(SettingError, match=r"^policy: 'Catch-bsuite' has no pretrained policy; .* has no policies"):
        load_policy("Catch-bsuite", folder=tmp_path)


def test_a_damaged_card_refuses_its_own_policy_alone(plain, tmp_path):
    folder = altered(plain[1], tmp_path / "policies", lambda npz, card: None)
    (folder / "CartPole-v1.toml").write_text("no card")
    assert load_policy("Catch-bsuite", folder=folder).card.environment == "Catch-bsuite"
    with pytest.raises(SettingError, match="CartPole-v1.toml"):
        load_policy("CartPole-v1", folder=folder)


def test_a_family_that_is_not_installed_says_what_installs_it(plain, tmp_path, monkeypatch):
    folder = altered(plain[1], tmp_path / "policies", lambda npz, card: None)
    path = folder / "Catch-bsuite.toml"
    text = path.read_text()
    path.rename(folder / "brax-ant.toml").write_text(text.replace('"Catch-bsuite"', '"brax/ant"'))
    monkeypatch.setitem(sys.modules, "brax.envs", None)
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(
        NotInstalled, match=r'^environment: \'brax/ant\' needs brax.*pip install "policy-gradients-jax\[brax\]"$'
    ):
        load_policy("brax/ant", folder=folder)
    assert pretrained.list(folder) == ["brax/ant"]


# The script


def test_policies_are_scored_again(script, plain, tmp_path, capsys):
    folder = altered(plain[1], tmp_path / "policies", lambda npz, card: None)
    shipping = script["Shipping"](folder=folder)
    script["main"](shipping)
    assert "within" in capsys.readouterr().out
    path = folder / "Catch-bsuite.toml"
    path.write_text(re.sub(r"(?m)^(mean) = .*$", r"\1 = 7.0", path.read_text(), count=1))
    with pytest.raises(SystemExit) as ended:
        script["main"](replace(shipping, names=("Catch-bsuite",)))
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "7 [" in out and out.endswith("outside: Catch-bsuite\n")


def test_what_cannot_be_shipped_or_scored(script, plain, tmp_path):
    run, folder = plain
    options = script["Shipping"](folder=folder)
    text = (run / "config.toml").read_text().replace('imports = ""', 'imports = "mine"')
    shutil.copytree(run, tmp_path / "own")
    (tmp_path / "own" / "config.toml").write_text(text)
    for change, message in [
        ({"episodes": 1}, "episodes: 1 must be at least 2"),
        ({"names": ("Catch-bsuite",), "add": (run,)}, "names: .* does nothing with --add"),
        ({"commit": "abc"}, "commit: 'abc' does nothing without --add"),
        ({"names": ("Catch",)}, "policy: 'Catch' has no pretrained policy"),
        ({"folder": tmp_path}, "folder: .* holds no policy"),
        ({"add": (tmp_path / "own",)}, "add: .* needs an imported module"),
        ({"add": (tmp_path,)}, "runs: .*config.toml. cannot be read: No such file"),
    ]:
        with pytest.raises(SettingError, match=f"^{message}"):
            script["main"](replace(options, **change))


@pytest.mark.parametrize("recorded", ["feed", ""])
def test_a_card_takes_the_commit_that_its_run_recorded(script, plain, tmp_path, recorded):
    run, _ = plain
    shutil.copytree(run, tmp_path / "run")
    lines = [line for line in (run / "config.toml").read_text().splitlines() if not line.startswith("commit = ")]
    text = "\n".join([*lines, f'commit = "{recorded}"'] if recorded else lines)
    (tmp_path / "run" / "config.toml").write_text(text)
    shipping = script["Shipping"](add=(tmp_path / "run",), folder=tmp_path / "policies", episodes=16)
    if not recorded:
        with pytest.raises(SettingError, match="^commit: '' is not recorded in .*; give --commit$"):
            script["main"](shipping)
        return
    script["main"](shipping)
    card = pretrained.card("Catch-bsuite", folder=tmp_path / "policies")
    assert card.commit == "feed" and "commit" not in card.versions


def test_an_interval_holds_the_mean_of_new_episodes():
    """Four standard errors of a difference: of 2000 pairs of means of normal returns none lies outside by chance."""
    rng = np.random.default_rng(0)
    first, second = 50 + 10 * rng.normal(size=(2000, 64)), 50 + 10 * rng.normal(size=(2000, 16))
    outside = standardised = 0
    for x, y in zip(first, second):
        evaluation = pretrained.Evaluation(x.mean(), x.std(ddof=1), 64, 0)
        low, high = evaluation.interval(16)
        outside += not low < y.mean() < high
        assert evaluation.interval()[0] > low and evaluation.interval(1)[0] < low
        standardised += abs(y.mean() - x.mean()) > (high - low) / 4  # about two standard errors
    assert outside == 0 and 0.01 < standardised / 2000 < 0.06
    assert pretrained.Evaluation(-200.0, 0.0, 64, 0).interval() == (-202.0, -198.0)


# What is in the package

SHIPPED = pretrained.list()
FEW = SHIPPED[:: max(1, len(SHIPPED) // 3)][:3]  # for every run: three of the list, evenly spaced
EPISODES = 64


def within_its_card(name, episodes):
    try:
        policy = load_policy(name)
    except NotInstalled as error:
        pytest.skip(str(error))
    low, high = policy.card.evaluation.interval(episodes)
    mean = pretrained.measured(*policy[:3], key=policy.card.evaluation.key, episodes=episodes).mean
    assert low <= mean <= high, f"{name}: {mean} is not in [{low}, {high}]"


@pytest.mark.costly
@pytest.mark.parametrize("name", FEW)
def test_a_few_shipped_policies_earn_what_their_cards_say(name):
    within_its_card(name, EPISODES)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_policy_earns_what_its_card_says(name):
    within_its_card(name, None)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_card_is_whole(name):
    """Written as the script writes it, with its files beside it, of a commit and a day; small."""
    card = pretrained.card(name)
    path = pretrained.FOLDER / files.file_name(name)
    assert Path(f"{path}.toml").read_text(encoding="utf-8") == card_text(card)
    assert hashlib.sha256(Path(f"{path}.npz").read_bytes()).hexdigest() == card.sha256
    assert len(np.genfromtxt(f"{path}.csv", delimiter=",", names=True)) <= 200
    assert re.fullmatch("[0-9a-f]{40}", card.commit) and re.fullmatch(r"\d{4}-\d\d-\d\d", card.date)
    assert card.score.greedy[1] <= card.score.greedy[0] <= card.score.greedy[2]


def test_what_is_shipped_is_a_few_megabytes_and_nothing_else():
    paths = [path for path in pretrained.FOLDER.iterdir() if not path.name.startswith(".")]
    stems = {files.file_name(name) for name in SHIPPED}
    assert {path.name for path in paths} == {f"{stem}.{kind}" for stem in stems for kind in ("npz", "toml", "csv")}
    assert sum(path.stat().st_size for path in paths) < 8e6


def test_policies_are_installed_with_the_package():
    table = tomllib.loads((SCRIPT.parents[1] / "pyproject.toml").read_text())
    assert table["tool"]["setuptools"]["package-data"]["pgjax.pretrained"] == ["policies/*"]
