"""The documentation tells the truth: commands parse, links lead somewhere, tables match the code, examples run."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from sample_factory.algo.runners import wiring
from sample_factory.cfg.arguments import parse_sf_args
from sample_factory.cfg.parser import FlagParser
from sample_factory.huggingface.load_from_hub import load_argparser
from sample_factory.huggingface.push_to_hub import push_argparser
from sample_factory.launcher.run import launcher_argparser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_COMPLETE_PROGRAM = re.compile(r"# (?P<name>\w+\.py)\n")

# Modules without flags of this project.
_FOREIGN_MODULES = ("pip", "venv", "pytest", "tensorboard")
_HUB_PARSERS = {
    "sample_factory.huggingface.push_to_hub": push_argparser,
    "sample_factory.huggingface.load_from_hub": load_argparser,
}
# A small and short training for the programs of the pages.
_EXAMPLE_FLAGS = (
    "--device=cpu",
    "--serial_mode=True",
    "--async_rl=False",
    "--num_workers=1",
    "--num_envs_per_worker=4",
    "--worker_num_splits=1",
    "--rollout=8",
    "--batch_size=32",
    "--encoder_mlp_layers",
    "16",
    "--train_for_env_steps=200",
    "--ui=plain",
)


class Block(NamedTuple):
    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.text.strip().splitlines()[0][:40]}"


class Command(NamedTuple):
    page: Path
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{' '.join(self.words)[:60]}"


def blocks(language: str | None = None) -> list[Block]:
    found = [Block(page, m["language"], m["text"]) for page in PAGES for m in _FENCE.finditer(page.read_text())]
    return [block for block in found if language is None or block.language == language]


def commands() -> list[Command]:
    """Everything a reader would type after `python -m`, from code blocks and from inline code."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for m in _FENCE.finditer(text) if not m["language"] for line in m["text"].splitlines()]
        lines += re.findall(r"`(python -m [^`]+)`", _FENCE.sub("", text))
        for line in lines:
            words = tuple(shlex.split(line, comments=True))
            if words[:2] == ("python", "-m"):
                found.append(Command(page, words[2:]))
    return found


COMMANDS = commands()
PROGRAMS = [block for block in blocks("python") if _COMPLETE_PROGRAM.match(block.text)]


def test_the_pages_hold_what_is_tested_here() -> None:
    """The patterns of this file still find something."""
    assert len(COMMANDS) >= 20
    assert {_COMPLETE_PROGRAM.match(block.text)["name"] for block in PROGRAMS} == {  # type: ignore[index]
        "guess_env.py",
        "grid_env.py",
        "my_model.py",
        "fast_eval.py",
        "my_runs.py",
    }


# --- commands ---


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_commands_name_a_module_and_known_flags(command: Command) -> None:
    module_name, flags = command.words[0], list(command.words[1:])
    if module_name.split(".")[0] in _FOREIGN_MODULES:
        assert importlib.util.find_spec(module_name.split(".")[0]) is not None
        return
    assert importlib.util.find_spec(module_name) is not None, f"{module_name} cannot be imported"
    if module_name.startswith(("sample_factory.cfg.flags.docs", "sample_factory.ued.", "benchmarks.")):
        assert_own_help_knows(module_name, flags)
    elif module_name == "sample_factory.launcher.run":
        launcher_argparser(flags).parse_args(flags)
    elif module_name in _HUB_PARSERS:
        _HUB_PARSERS[module_name]().parse_args(flags)
    else:
        parse_with_real_parser(module_name, flags)


def assert_own_help_knows(module_name: str, flags: list[str]) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", module_name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for flag in flags:
        assert not flag.startswith("--") or flag.split("=")[0] in help_text, f"{module_name} does not know {flag}"


def parse_with_real_parser(module_name: str, flags: list[str]) -> None:
    """Exits, and so fails, if a flag is unknown or a value is impossible."""
    if not any(flag.startswith("--env=") for flag in flags):
        flags = ["--env=CartPole-v1", *flags]
    if module_name == "sample_factory.enjoy":
        parse_evaluation_flags(flags)
        return
    module = importlib.import_module(module_name)
    is_evaluation = "enjoy" in module_name or "export" in module_name
    module.parse_custom_args(flags, evaluation=is_evaluation)


def parse_evaluation_flags(flags: list[str]) -> argparse.Namespace:
    parser, _ = parse_sf_args(flags, evaluation=True)
    assert isinstance(parser, FlagParser)
    cfg, problems = parser.parse_strictly(flags)
    assert not problems
    return cfg


def test_unknown_flags_would_be_noticed() -> None:
    with pytest.raises(SystemExit):
        parse_with_real_parser("sf_examples.train_gym_env", ["--no_such_flag=1"])
    with pytest.raises(AssertionError):
        parse_evaluation_flags(["--env=CartPole-v1", "--no_such_flag=1"])


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    text += (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    documented = set(re.findall(r"`make ([\w-]+)[^`]*`", text)) | set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE))
    documented |= set(re.findall(r"run: make ([\w-]+)", text))
    assert documented <= targets
    in_contributing = set(re.findall(r"^\| `make ([\w-]+)`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert in_contributing == targets, "the table in CONTRIBUTING.md lists exactly the targets of the Makefile"


# --- links ---


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_internal_links_resolve(page: Path) -> None:
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        path, _, anchor = match["target"].partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{match['target']} does not exist"
        if anchor:
            assert anchor in anchors(target), f"{match['target']}: no such heading"


def anchors(page: Path) -> set[str]:
    """GitHub's names of the headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_files_of_the_repository_that_pages_name_exist(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    for name in re.findall(r"`((?:sample_factory|sf_examples|tests)/[\w./]+?)`", text):
        assert (ROOT / name).exists(), name


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached, todo = set(), [index]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [match["target"].partition("#")[0] for match in _LINK.finditer(page.read_text())]
        todo += [(page.parent / t).resolve() for t in targets if t.endswith(".md") and "://" not in t]
    benchmark_reports = {page for page in PAGES if page.parent.name == "benchmarks"}  # named by their README
    assert set((ROOT / "docs").rglob("*.md")) - benchmark_reports <= reached


# --- tables ---


def test_signal_table_is_that_of_the_wiring() -> None:
    assert wiring.__doc__ is not None
    _, _, body, *_ = re.split(r"^=+  =+$\n", wiring.__doc__, flags=re.MULTILINE)
    in_code = [tuple(re.split(r"\s{2,}", line.strip())) for line in body.strip().splitlines()]
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("| emitter . signal | receiver . slot |\n|---|---|\n")[2].partition("\n\n")[0]
    in_page = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()]
    assert len(in_code) > 15
    assert in_page == in_code


# --- code ---


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_blocks_compile(block: Block) -> None:
    compile(block.text, block.name, "exec")


FRAGMENTS = [block for block in blocks("python") if block not in PROGRAMS]


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.name)
def test_fragments_can_be_executed(block: Block) -> None:
    """Definitions only, so this finds wrong imports and names of base classes."""
    exec(compile(block.text, block.name, "exec"), {"__name__": "fragment"})


def write_program(name: str, folder: Path) -> Path:
    text = next(block.text for block in PROGRAMS if block.text.startswith(f"# {name}\n"))
    path = folder / name
    path.write_text(text)
    return path


def run_python(folder: Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.multiproc
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("program", "env"), [("guess_env.py", "guess"), ("grid_env.py", "grid"), ("my_model.py", "find")]
)
def test_training_programs_run_and_are_found_again(program: str, env: str, tmp_path: Path) -> None:
    script = write_program(program, tmp_path)
    place = (f"--env={env}", "--experiment=run", f"--train_dir={tmp_path / 'train_dir'}")
    output = run_python(tmp_path, script.name, *place, *_EXAMPLE_FLAGS)
    assert "Run ended with exit code 0" in output
    if program != "guess_env.py":  # registers in its main part only
        output = run_python(
            tmp_path, "-m", "sample_factory.enjoy", *place, "--no_render", "--max_num_episodes=2", "--device=cpu"
        )
        assert "episodes, average reward" in output


@pytest.mark.multiproc
def test_run_module_describes_the_folders_of_the_page(tmp_path: Path) -> None:
    write_program("my_runs.py", tmp_path)
    flags = ("--run=my_runs", "--train_dir=train_dir", "--backend=slurm", "--slurm_print_only=True")
    run_python(tmp_path, "-m", "sample_factory.launcher.run", *flags)
    names = {path.stem.removeprefix("sbatch_") for path in (tmp_path / "train_dir" / "cartpole" / "slurm").iterdir()}
    assert len(names) == 8
    page = (ROOT / "docs" / "launcher.md").read_text()
    for folder in re.findall(r"^train_dir/cartpole/\w+_/(\S+)$", page, re.MULTILINE):
        assert folder in names or folder.startswith("00_repeated_see_"), folder


@pytest.mark.multiproc
@pytest.mark.timeout(150)
def test_evaluation_program_runs(tmp_path: Path) -> None:
    place = ("--env=CartPole-v1", "--experiment=run", f"--train_dir={tmp_path / 'train_dir'}")
    run_python(tmp_path, "-m", "sf_examples.train_gym_env", *place, *_EXAMPLE_FLAGS)
    script = write_program("fast_eval.py", tmp_path)
    run_python(tmp_path, script.name, *place, "--sample_env_episodes=4", "--device=cpu")
    assert list((tmp_path / "train_dir" / "run").glob("*.csv"))
