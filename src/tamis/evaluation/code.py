"""Functions that a model wrote, checked by running their tests (the format of HumanEval, Chen et al. 2021).

A row's user message may show the head of a function, `meta.test` defines `check(candidate)`, `meta.entry_point` names
the function. `program` joins a reply with its test, `run_tests` runs programs in sandboxes.
"""

import re
import textwrap

from tamis.evaluation.code_blocks import blocks, compiles, defines, helpers, pieces, whole_lines
from tamis.evaluation.sandbox import Limits, Outcome, check_sandbox, run_tests

__all__ = ["Limits", "Outcome", "check_sandbox", "program", "run_tests"]

_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)
_INDENTED = re.compile(r"^[ \t]+\S", re.MULTILINE)


def program(prompt: str, completion: str, test: str, entry_point: str) -> str:
    """The text to run for one reply: its code, the test, the call of the test.

    Code is what stands in ```- or ~~~-blocks, or, where none of these defines the function, what compiles between the
    prose. Of several pieces the last one that defines the function at its outermost level counts, with the imports,
    functions, classes and constants of those before it; before them comes what stands before the function in the prompt
    (imports, helpers). A reply that begins with an indented line, or defines no such function, is taken for the rest of
    the function that the prompt begins, whatever its indentation. A head without body defines nothing. Nothing is run
    here; code that is none gives a program that fails. A reply that calls `check` something else, or returns early,
    gains nothing: the test comes last.
    """
    before, head = _head(prompt, entry_point)
    code = _answer(_plain(completion), before, head, entry_point)
    futures = "".join(_FUTURE.findall(code))  # these have to come first
    return f"{futures}{_FUTURE.sub('', code)}\n\n{test}\n\ncheck({entry_point})\n"


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def _answer(text: str, before: str, head: str, name: str) -> str:
    fenced = blocks(text)
    if not fenced and _INDENTED.match(text.lstrip("\n")):
        dedented = textwrap.dedent(text)
        if head and (_INDENTED.match(dedented.lstrip("\n")) or not _chosen(pieces(dedented), name)):
            return _continued(head, text, False)
        text = dedented
    begins = re.compile(rf"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+)?{re.escape(name)}[ \t]*(?:\(.*:|=(?!=))", re.MULTILINE)
    begun = any(begins.search(block) for block in fenced)  # faulty code between fences is not mended
    for parts in (fenced, [] if begun else pieces(text)):
        if chosen := _chosen(parts, name):
            return f"{before}\n{chosen}"
    return _continued(head, fenced[0] if fenced else text, bool(fenced))


def _chosen(parts: list[str], name: str) -> str | None:
    """The last part that defines the function, below the helpers in those before it."""
    places = [i for i, part in enumerate(parts) if defines(part, name)]
    if not places:
        return None
    return "\n".join([*(helpers(part, name) for part in parts[: places[-1]]), parts[places[-1]]])


def _head(prompt: str, name: str) -> tuple[str, str]:
    """What stands before the function in the code of a prompt, and this with the beginning of the function.

    Both are empty where the prompt shows none.
    """
    text = _plain(prompt)
    begins = re.compile(rf"^(?:[ \t]*@.*\n)*(?P<indent>[ \t]*)(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", re.M)
    for part in (*blocks(text), text):
        for found in begins.finditer(part):
            lines = part[: found.start()].splitlines(keepends=True)
            for n in range(len(lines) + 1):  # the first line from which all is code down to the function
                code = re.sub(f"^{found['indent']}", "", "".join(lines[n:]) + part[found.start() :], flags=re.M)
                own = begins.search(code)
                if not own or (n < len(lines) and not code[:1].strip()) or not compiles(code[: own.start()]):
                    continue
                if head := _begun(code, own.end()):
                    return code[: own.start()], head
    return "", ""


def _begun(code: str, least: int) -> str:
    """The longest beginning of a code that a function's body can go on from; empty where there is none."""
    lines = code.splitlines(keepends=True)
    for n in range(len(lines), 0, -1):
        head = "".join(lines[:n]).rstrip() + "\n"
        if len(head) <= least:
            return ""
        if compiles(head + "    pass\n"):
            return head
    return ""


def _continued(head: str, code: str, fenced: bool) -> str:
    """The rest of a function put below its head: as it is indented, else its first line indented, else all of it.

    Of a text with prose around it, the longest beginning that compiles so, or that of what begins with its first
    indented line.
    """
    code = code.strip("\n")
    layouts = [code, "    " + code.lstrip(), textwrap.indent(textwrap.dedent(code), "    ")]
    if not fenced and (found := _INDENTED.search(code)):
        layouts.append(code[found.start() :])
    for layout in layouts:
        if compiles(head + layout):
            return head + layout
    if not fenced:
        for layout in layouts:
            if kept := whole_lines(layout, head):
                return head + kept
    return head + code
