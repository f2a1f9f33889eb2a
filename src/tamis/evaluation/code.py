"""Functions that a model wrote, checked by running their tests (the format of HumanEval, Chen et al. 2021).

A row's user message shows the head of a function, `meta.test` defines `check(candidate)`, `meta.entry_point` names the
function. `program` joins a reply with its test, `run_tests` runs programs in sandboxes.
"""

import re
import textwrap
import warnings

from tamis.evaluation.sandbox import Limits, Outcome, check_sandbox, run_tests

__all__ = ["Limits", "Outcome", "check_sandbox", "program", "run_tests"]

_FENCED = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_STARTS = re.compile(r"^(?:(?:from|import|def|async|class)\b|@)", re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)


def program(prompt: str, completion: str, test: str, entry_point: str) -> str:
    """The text to run for one reply: its code, the test, the call of the test.

    Of a reply the first ```-block that defines the function counts, else the first block (to the end, where it is not
    closed), else the whole text without the prose around the code. Code that defines the function at its outermost
    level gets what stands before the function in the prompt (imports, helpers); other code is taken for the rest of
    the function that the prompt begins, whatever its indentation. Nothing is run here; code that is none gives a
    program that fails. A reply that calls `check` something else, or returns early, gains nothing: the test comes last.
    """
    head = _block(prompt, entry_point)[0]
    code, fenced = _block(completion, entry_point)
    if found := _defines(entry_point).search(code):
        if not fenced:
            start = _STARTS.search(code) or found
            code = _whole_lines("", code[min(start.start(), found.start()) :])
        begins = _defines(entry_point).search(head)
        code = (head[: begins.start()] if begins else "") + "\n" + code
    else:
        code = _continued(head, code, fenced)
    futures = "".join(_FUTURE.findall(code))  # these have to come first
    return f"{futures}{_FUTURE.sub('', code)}\n\n{test}\n\ncheck({entry_point})\n"


def _defines(name: str) -> re.Pattern[str]:
    name = re.escape(name)
    return re.compile(rf"^(?:(?:async[ \t]+)?def[ \t]+{name}[ \t]*\(|{name}[ \t]*=(?!=))", re.MULTILINE)


def _block(text: str, entry_point: str) -> tuple[str, bool]:
    """The code in a text, and whether it stood between fences."""
    text = text.replace("\r\n", "\n")
    blocks = [textwrap.dedent(block) if indent else block for indent, block in _FENCED.findall(text)]
    return next((block for block in blocks if _defines(entry_point).search(block)), (blocks or [text])[0]), bool(blocks)


def _continued(head: str, code: str, fenced: bool) -> str:
    """The rest of a function put below its head: as it is indented, else its first line indented, else all of it."""
    head, code = head.rstrip() + "\n", code.strip("\n")
    layouts = [code, "    " + code.lstrip(), textwrap.indent(textwrap.dedent(code), "    ")]
    for layout in layouts:
        if _compiles(head + layout):
            return head + layout
    if not fenced:
        for layout in layouts:
            kept = _whole_lines(head, layout)
            if kept != layout:
                return head + kept
    return head + code


def _whole_lines(head: str, code: str) -> str:
    """The longest beginning of the code that is Python below the head: a reply may go on in prose. All, if none is."""
    lines = code.splitlines(keepends=True)
    for n in range(len(lines), 0, -1):
        if lines[n - 1].strip() and _compiles(head + "".join(lines[:n])):
            return "".join(lines[:n])
    return code


def _compiles(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "candidate.py", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
