"""What the pages say is there: tests that they name, links, and code, which runs.

Fenced ``python`` blocks of the pages in `RUN` run, each after the first block of its page and in a
namespace of its own. Blocks that are marked ``python no-run`` do not.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowland.optim import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("README.md"))]
RUN = {
    "training.md": 1,
    "devices.md": 2,
    "migrating.md": 1,
    "federated.md": 1,
    "measuring.md": 1,
    "methods.md": 1,
    "compress.md": 1,
}
"""Pages whose blocks run, with the number of processes."""

REFERENCE = re.compile(r"([\w./-]+\.py)::(\w+(?:::\w+)*)")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FORMS = ("closure", "context", "two-step")


def functions_of(path: Path) -> set[str]:
    """Names of the tests in a file, those of classes as ``Class::name``."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = (n for n in inside if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
        found |= {prefix + n.name for n in functions if n.name.startswith("test_")}
    return found


def missing_tests(text: str, root: Path = ROOT) -> list[str]:
    """References ``path::test`` to what is not there."""
    missing = []
    for match in REFERENCE.finditer(text):
        path = root / match[1]
        if not path.is_file() or match[2] not in functions_of(path):
            missing.append(match[0])
    return missing


def slugs(text: str) -> set[str]:
    """The names under which headings can be linked to."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links to files or headings that are not there."""
    broken = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if path and not file.exists():
            broken.append(target)
        elif heading:
            known = text if file == page else file.read_text("utf-8")
            if heading not in slugs(known):
                broken.append(target)
    return broken


def unproven_cells(text: str) -> Iterator[str]:
    """Cells of the table of features whose letters no test stands for, or that say nothing."""
    inside = False
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif row[1:4] == list(FORMS):
            inside = True
        elif inside and len(row) != 5:
            yield line
        elif inside and not set(row[0]) <= {"-"}:
            known = set(re.findall(r"\b([a-z]): `", row[4]))
            for form, cell in zip(FORMS, row[1:4], strict=True):
                letters = set(re.findall(r"\b[a-z]\b", cell))
                excused = cell == "no test" or cell.startswith("not possible: ")
                if not (excused or (letters and letters <= known)):
                    yield f"{row[0]}, {form}: {cell}"


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of the blocks that run."""
    for match in FENCE.finditer(text):
        if match[1].strip() == "python":
            yield text[: match.start()].count("\n") + 1, match[2]


RUNNER = """
import importlib.util, os, sys, traceback, warnings
spec = importlib.util.spec_from_file_location("pages", sys.argv[1])
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)
code = list(pages.blocks(open(sys.argv[2], encoding="utf-8").read()))
compiled = [compile("\\n" * line + block, sys.argv[2], "exec") for line, block in code]
import torch
torch.set_num_threads(1)
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
try:
    for block in compiled:
        names = {"__name__": "page"}
        torch.manual_seed(0)
        exec(compiled[0], names)
        if block is not compiled[0]:
            exec(block, names)
except BaseException:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)
with open("ran-" + os.environ.get("RANK", "0"), "w") as file:
    file.write(str(len(compiled)))
os._exit(0)  # gloo's threads may abort an ordinary exit on a busy machine
"""


def run_blocks(page: Path, processes: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the page on the CPU, in `folder`, with that many processes."""
    script = folder / "run_page.py"
    script.write_text(RUNNER, "utf-8")
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    env["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.run(
        [*start, str(script), __file__, str(page)],
        cwd=folder, env=env, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def ran(folder: Path) -> list[int]:
    """How many blocks each process ran to its end."""
    return [int(file.read_text()) for file in folder.glob("ran-*")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    assert not missing_tests(page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page.read_text("utf-8"), page)


def test_every_cell_of_the_table_has_a_test_or_a_reason() -> None:
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    assert not list(unproven_cells(text))
    assert text.count("| no test ") < text.count("::test_"), "the table is not empty"


@pytest.mark.parametrize("name", RUN)
def test_code_runs(name: str, tmp_path: Path) -> None:
    page = ROOT / "docs" / name
    done = run_blocks(page, RUN[name], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    count = len(list(blocks(page.read_text("utf-8"))))
    assert count > 3
    assert ran(tmp_path) == [count] * RUN[name]


class TestTheChecksCanFail:
    def test_a_test_that_is_gone(self) -> None:
        here = "tests/test_docs.py"
        there = f"{here}::test_code_runs {here}::TestTheChecksCanFail::test_a_test_that_is_gone"
        assert not missing_tests(there)
        gone = [f"{here}::test_gone", "tests/gone.py::test_code_runs", f"{here}::run_blocks"]
        assert missing_tests(" ".join(gone)) == gone

    def test_a_link_to_nothing(self) -> None:
        page = ROOT / "docs" / "some.md"
        good = "# A title: with `code`\n[x](../README.md) [y](#a-title-with-code) [z](https://x.y)"
        assert not broken_links(good, page)
        assert broken_links("# B\n[x](gone.md) [y](#a)", page) == ["gone.md", "#a"]
        assert broken_links("[x](../README.md#gone)", page) == ["../README.md#gone"]

    def test_a_cell_without_a_test(self) -> None:
        head = "| feature | closure | context | two-step | tests |\n|---|---|---|---|---|\n"
        proof = "a: `tests/x.py::test_y`"
        good = f"| f | a | not possible: why | no test | {proof} |"
        assert not list(unproven_cells(head + good))
        bad = f"| f | b | | yes | {proof} |"
        assert len(list(unproven_cells(head + bad))) == 3
        assert list(unproven_cells(head + "| f | a | a |")) == ["| f | a | a |"]

    @pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_code_that_fails(self, tmp_path: Path, processes: int) -> None:
        page = tmp_path / "page.md"
        page.write_text(
            "# Page\n\n```python\na = 1\n```\n\n```python\na += 1\nassert a == 1\n```\n"
        )
        done = run_blocks(page, processes, tmp_path)
        assert done.returncode != 0
        assert not ran(tmp_path)
        assert f'{page}", line 9' in done.stderr
        page.write_text(
            page.read_text().replace("a == 1", "a == 2") + "```python no-run\n1/0\n```\n"
        )
        done = run_blocks(page, processes, tmp_path)
        assert done.returncode == 0, done.stderr
        assert ran(tmp_path) == [2] * processes


def test_the_table_of_methods_is_the_registry() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "methods.md").read_text("utf-8").splitlines()
        if line.startswith("| `")
    ]
    for row, method in zip(rows, METHODS.values(), strict=True):
        name, kind = method.name, method.optimizer.__name__
        assert row[:3] == [name, kind, method.kind]
        assert method.source in row[3]
        assert row[4:] == [method.passes, method.memory, method.needs]
