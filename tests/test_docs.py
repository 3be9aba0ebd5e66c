"""The pages agree with the code: links, commands, file names, the two READMEs, and nothing of a build machine."""

import functools
import re
import shlex
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

from main import main
from src.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for folder in ("*", "docs/**/*", "patches/*", "tests/**/*") for path in ROOT.glob(f"{folder}.md"))
GUIDES = [path for path in PAGES if path.parent == ROOT or "guide" in path.parts or "patches" in path.parts]
OURS = ("*.*", ".ci/*", ".github/**/*", "baselines/**/*", "docs/**/*", "modules/**/*", "patches/**/*", "src/**/*",
        "tests/**/*")
OF_OTHERS = {"src/MMSA/utils/metricsTop.py"}  # named with the repository that it belongs to


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    if page.parent.name != "patches":  # that page also names files of the original
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`((?:src|modules|baselines|tests|patches|docs)/[\w/.]*)`", text)
        assert [name for name in named if name not in OF_OTHERS and not (ROOT / name).exists()] == []


def blocks(page):
    """The lines of a page's shell blocks, without comments."""
    found = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(found).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_both_readmes_have_the_same_commands():
    english, chinese = (ROOT / "README.md", ROOT / "README.zh.md")
    assert blocks(english) == blocks(chinese) != []
    links = [re.findall(r"\]\(((?!README)[^)]+)\)", path.read_text(encoding="utf-8")) for path in (english, chinese)]
    numbers = [re.findall(r"\d[\d.]*", path.read_text(encoding="utf-8")) for path in (english, chinese)]
    assert links[0] == links[1]
    assert sorted(numbers[0]) == sorted(numbers[1])


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@functools.cache
def flags_of(command):
    """The flags that the help of a command of the front door, or of main.py, lists."""
    run = main if command == "main.py" else import_module(COMMANDS[command][0]).main
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        run(["--help"])
    return set(re.findall(r"--[a-z][\w-]*", printed.getvalue()))


def parts(words):
    """(command, its words) of every command of ours on a line."""
    text = " ".join(words)
    if match := re.match(r"bash run_all\.sh(.*)|sbatch .*slurm_array\.sh(.*)", text):
        own, _, rest = (match[1] or match[2] or "").partition(" -- ")
        return [("grid", own), ("main.py", rest)]
    if match := re.match(r"(?:OMP_NUM_THREADS=1 )?python -m src (\S+)(.*)", text):
        return [(match[1], match[2])]
    if match := re.match(r"(?:python|torchrun .*?) ?main\.py(.*)", text):
        return [("main.py", match[1])]
    return []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_of_a_page_exist(page):
    if page.parent.name == "patches":
        lines = [words for words in blocks(page) if "--json_lines" not in words]  # that one is for the original
    else:
        lines = blocks(page)
    for words in lines:
        for command, text in parts(words):
            assert command == "main.py" or command in COMMANDS, words
            unknown = set(re.findall(r"(?<!\S)--[a-z][\w-]*", text)) - flags_of(command)
            assert not unknown, words
        for word in words:
            if re.fullmatch(r"(src|tests|patches)/\S+\.(sh|py)", word):
                assert (ROOT / word).is_file(), words


def test_every_command_of_the_front_door_stands_in_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in COMMANDS if f"python -m src {name}" not in text} == set()


def test_no_file_names_a_path_of_a_build_machine():
    pattern = re.compile(r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/\w")
    for path in (path for place in OURS for path in ROOT.glob(place)):
        if path.is_file() and path.suffix not in (".npz", ".png", ".pyc") and "_cache" not in name_of(path):
            found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name_of(path)}: {found and found[0]}"
