"""The language of pages, docstrings, messages and comments: words to avoid, long sentences, spelling."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
MOST_WORDS = 35

AVOID = {  # pattern: what to write instead
    # idioms of other languages
    r"\btold apart\b|\btells? (them |it |two )?apart\b": "distinguished",
    r"\bsaid in words\b|\bin so many words\b": "described",
    r"\bof one's own\b": "your own, a separate one",
    r"\bwhat becomes of\b": "what happens to, or name the result",
    r"\bbecomes of (it|them|an?|the)\b": "what happens to, or name the result",
    r"\bis (its|their|nobody's|your|my) business\b": "concerns",
    r"\bnever what\b": "state what is unaffected",
    r"\banother than\b": "other than, different from",
    r"\b(held|taken|kept) as an? (mean|promise)\b": "sustained",
    r"\bnot held as\b": "not sustained",
    r"\bat (its|the|their) door\b": "on input",
    r"\b(as|what) (it|they) stands?\b|\bas it comes\b|\bas they come\b": "unchanged, with its defaults",
    r"\bgoes? on (to|from|with|until|by|at)\b|\bgo on with\b": "continues",
    r"\bto be had from\b": "from, estimated from",
    r"\bby (chance|hand) of\b|\bdraws? by chance\b": "samples at random",
    r"\bnamed anew\b|\btrained anew\b|\bcompiled anew\b|\bregistered anew\b": "again",
    r"\bof to-?day\b": "current",
    r"\bbut for (its|the|what|that|time|rows?)\b": "except",
    r"\bwhat there is\b": "name the thing",
    r"\bbe it\b|\bwhatever be\b": "whether",
    r"\b(evaluations?|hyperparameter|number|setting) on the way\b": "during training",
    r"\bto the bit\b": "bit for bit",
    r"\bwhat of (the|a|an|it|them)\b": "which part of",
    r"\bwhat surrounds\b": "the context of",
    # personification
    r"\bsays? so\b|\bsaid so\b": "prints a warning, is documented",
    r"\b(devices?|processes|numbers|figures|settings|files|losses) (say|know|believe|forget|want|hope)\b": "show, are",
    r"\b(interval|device|table|function|loss|gradient|file)s? (knows?|believes?|forgets?|hopes?)\b": "includes, is",
    r"\bbelieving its own\b|\bkeeps? (its|their) promises?\b": "overfitting, meets its guarantee",
    r"\bfor all that .{1,30} cares?\b": "the direction is unchanged",
    # terms that the field does not use
    r"V-trace's bars?\b|\bbars at \d": "clipping thresholds",
    r"\blaws\b(?! of (large|total))|\b(state|exact|action|visitation) law\b": "distributions",
    r"\bhow far off\b|\bas far off as\b": "the error of",
    r"\bfar-out\b": "extreme",
    r"\b(errs|err) (least|less|most|more|by)\b|\berrs \d": "has an error of",
    r"\bhonest (interval|mean|number|score)s?\b|\bintervals honest\b": "correct, with nominal coverage",
    r"\bonce more on others\b|\bthe last but one\b|\bbut one\b": "name it",
    r"\bsigns that a locale\b|\bsigns are spelled\b": "characters",
    # empty
    r"\b(simply|obviously|of course|needless to say|basically)\b": "leave it out",
    r"\b(please note|note that|it should be noted)\b": "leave it out",
    r"\b(leverage|utili[sz]e|seamless(ly)?|delve)\b": "use a plain word",
}
ANY = re.compile("|".join(AVOID), re.IGNORECASE)
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|vs|al|cf|Eq|Fig|Sec|approx|etc|no)\.$")


# Texts


def prose_of(text):
    """A page's prose as paragraphs: without code, tables, headings and HTML; each item of a list by itself."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|\$\$.*?\$\$", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"^ *(?:\||<|!\[|#).*$", "\n\n", text, flags=re.MULTILINE)
    return [
        " ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.|\(\d+\)) )", text) if part.strip()
    ]


def paragraphs_of(docstring):
    """A docstring's prose as paragraphs: up to the first example; each entry of a list or of Args by itself."""
    text = re.split(r"^ *(?:>>>|```)", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    parts = re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )|\n(?= *\w+(?:, \w+)*: )|(?<=:)\n(?= )", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def sentences(paragraph):
    """The sentences of a paragraph; a colon ends one too."""
    start = 0
    for end in re.finditer(r"[.?!][)\"'*”]*\s+|:\s+", paragraph):
        if not ABBREVIATIONS.search(paragraph[: end.start() + 1]):
            yield paragraph[start : end.start() + 1]
            start = end.end()
    yield paragraph[start:]


def length(sentence):
    """The number of words; a piece of code or a formula in backticks is one, and the target of a link none."""
    text = re.sub(r"`[^`]*`|\$[^$]*\$", "x", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence))
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def texts(source):
    """A module's docstrings and its other strings of three words or more (errors, help), each as (line, text)."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    nodes = list(ast.walk(ast.parse(source)))
    documented = [node for node in nodes if isinstance(node, kinds) and ast.get_docstring(node)]
    docstrings = [(node.body[0].lineno, ast.get_docstring(node)) for node in documented]
    formatted = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    seen = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    seen |= {id(part) for node in formatted for part in node.values}
    messages = [
        (node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        for node in formatted
    ]
    strings = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    messages += [(node.lineno, node.value) for node in strings if id(node) not in seen]
    return docstrings, [(line, text) for line, text in messages if text.count(" ") > 1]


def cells(path):
    """A notebook's markdown."""
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted(path for folder in ("pgjax", "experiments") for path in (ROOT / folder).rglob("*.py"))


# Checks


def avoided(text):
    """The places of a text that match a pattern to avoid, each with what to write instead."""
    text = " ".join(text.split())
    if not ANY.search(text):
        return []
    return [f"{m[0]!r}: {instead}" for p, instead in AVOID.items() for m in re.finditer(p, text, re.IGNORECASE)]


def too_long(paragraphs):
    """The sentences with more than MOST_WORDS words, except lists of links."""
    found = [s for paragraph in paragraphs for s in sentences(paragraph) if length(s) > MOST_WORDS]
    return [sentence for sentence in found if sentence.count("](") < 3]


def misspelt(*paths):
    """The lines that codespell prints about files; the words that it allows are in pyproject.toml."""
    tool = shutil.which("codespell", path=str(Path(sys.executable).parent)) or shutil.which("codespell")
    command = [tool, *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.splitlines()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_in_plain_words_and_short_sentences(path):
    text = path.read_text()
    assert avoided(re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)) == []
    assert too_long(prose_of(text)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_in_plain_words(path):
    assert avoided(cells(path)) == []


def test_docstrings_and_messages_are_in_plain_words_and_short_sentences():
    found = []
    for path in MODULES:
        docstrings, messages = texts(path.read_text())
        hits = [(line, hit) for line, text in docstrings + messages for hit in avoided(text)]
        hits += [(line, sentence) for line, text in docstrings for sentence in too_long(paragraphs_of(text))]
        found += [f"{path.relative_to(ROOT)}:{line}: {hit}" for line, hit in hits]
    assert found == []


def test_spelling(tmp_path):
    for path in NOTEBOOKS:
        (tmp_path / path.with_suffix(".md").name).write_text(cells(path))
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert misspelt(*PAGES, *MODULES, *tests, *sorted(tmp_path.glob("*.md"))) == []


# The checks themselves


PLANTED = [
    "They are told\napart by a flag.",
    "A line says so.",
    "This is a step of one's own.",
    "Ratios of state laws are used.",
    "It goes on to the end.",
    "V-trace's bars are 1.",
    "It is another than this.",
]


@pytest.mark.parametrize("phrase", PLANTED)
def test_a_planted_phrase_is_found(phrase):
    assert avoided(f"The policy is trained. {phrase}")
    message = " ".join(phrase.split())
    code = f'def f(x):\n    """Return x.\n\n    {phrase}\n    """\n    raise ValueError(f"{{x}}: {message}")'
    docstrings, messages = texts(code)
    assert len(docstrings) == len(messages) == 1
    assert avoided(docstrings[0][1]) and avoided(messages[0][1])


def test_common_words_are_left_alone():
    text = "The law of large numbers. The loss is known. Its own return is not held in memory. The episode goes on."
    assert avoided(text) == []


def test_a_planted_long_sentence_is_found():
    short, long = " ".join(["word"] * 34) + " end.", " ".join(["word"] * 36) + " end."
    assert too_long(prose_of(f"{short} {short}\n\n- {short}\n- {short}")) == []
    page = f"| {long} |\n|---|\n| {long} |\n\n```\n{long}\n```\n\n<p>\n</p>\n\n- {long}\n"
    assert too_long(prose_of(page)) == [f"- {long}"]
    assert too_long(paragraphs_of(f"{short}\n\nArgs:\n  x: {short}\n  y: {short}\n\n>>> {long}")) == []
    assert too_long(paragraphs_of(f"{short}\n\n{long}")) == [long]


def test_a_planted_misspelling_is_found(tmp_path):
    wrong = ["se" + "perate", "rec" + "ieve", "occ" + "ured"]
    for word, (name, text) in zip(wrong, {"a.md": "It is {}.", "b.py": "x = 1  # {}", "c.py": '"""{} x."""'}.items()):
        (tmp_path / name).write_text(text.format(word))
    (tmp_path / "d.md").write_text("The reacher of brax, behaviour, colour and normalise.")
    assert [line.split()[1] for line in misspelt(*sorted(tmp_path.iterdir()))] == wrong
