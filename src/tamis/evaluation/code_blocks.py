"""Python in a text that a model wrote: between fences, or bare among prose. Nothing is run."""

import ast
import re
import textwrap
import warnings

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<own>`{3,}|~{3,})[^\n`]*\n|(?P<inline>`{3,}|~{3,})[\w+-]*[ \t]*\n", re.MULTILINE
)
# What a line of code may begin with where prose stands before it
_STARTS = re.compile(r"(?:from|import|def|async|class|if|try)\b|@|\w[\w, ]*(?::[^=\n]+)?=(?!=)")


def blocks(text: str) -> list[str]:
    """The texts between fences, those that are left open too; without the indentation of their fence.

    A block ends at the first fence that is not within a string of triple quotes, else at the first one.
    """
    found, place = [], 0
    while opening := _FENCE.search(text, place):
        fence = opening["own"] or opening["inline"]
        close = re.compile(rf"^[ \t]*{fence[0]}{{{len(fence)},}}|{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
        ends = [(end.start(), end.end()) for end in close.finditer(text, opening.end())]
        ends = ends or [(len(text), len(text))]
        start = opening.end()
        end, place = next((end for end in ends if _is_closed(text[start : end[0]])), ends[0])
        block = text[start:end]
        found.append(textwrap.dedent(block) if opening["indent"] else block)
    return found


def pieces(text: str) -> list[str]:
    """The stretches of a text with prose around them that are code, each from its first line that may begin code."""
    lines, found, n = _lines(text), [], 0
    while n < len(lines):
        tried = not _STARTS.match(lines[n]) or (n > 0 and lines[n][0] == lines[n - 1][0] == "@")
        piece = "" if tried else whole_lines("".join(lines[n:]))
        if piece:
            found.append(piece)
        n += len(_lines(piece)) or 1
    return found


def whole_lines(code: str, before: str = "") -> str:
    """The longest beginning of a code that is Python below what stands before: a reply may go on in prose."""
    lines = _lines(code)
    n_before, n = len(_lines(before)), len(lines)
    while n > 0:
        fault = _fault(before + "".join(lines[:n]))
        if fault is None and lines[n - 1].strip():
            return "".join(lines[:n])
        # What has the faulty line has its fault
        n = min(n, fault - n_before if fault is not None and fault > n_before else n) - 1
    return ""


def defines(code: str, name: str) -> bool:
    """Whether code compiles and gives the name a meaning of its own: a function or class with a body, or a value."""
    tree = _tree(code)
    return tree is not None and any(_gives(statement, name) for statement in tree.body)


def helpers(code: str, name: str) -> str:
    """The imports, functions, classes and constants of a code, without what uses the name: examples of its use."""
    tree = _tree(code)
    if tree is None:
        return ""
    plain = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    kept: list[ast.stmt] = []
    for statement in tree.body:
        is_value = isinstance(statement, ast.Assign | ast.AnnAssign) and not _reads(statement, name)
        if isinstance(statement, plain) or is_value:
            kept.append(statement)
    try:
        return ast.unparse(ast.Module(kept, [])) + "\n"
    except RecursionError:  # an expression of a thousand terms
        return ""


def compiles(text: str) -> bool:
    """Whether a text is Python."""
    return _fault(text) is None


def _gives(statement: ast.stmt, name: str) -> bool:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return statement.name == name and not all(map(_is_idle, statement.body))
        case ast.Assign():
            targets = [node for target in statement.targets for node in ast.walk(target)]
        case ast.AnnAssign(value=ast.expr()):
            targets = [statement.target]
        case ast.If() | ast.Try() | ast.With():
            inner = [*statement.body, *getattr(statement, "orelse", []), *getattr(statement, "finalbody", [])]
            return any(_gives(child, name) for child in inner)
        case _:
            return False
    return any(isinstance(t, ast.Name) and t.id == name for t in targets) and not _reads(statement, name)


def _is_idle(statement: ast.stmt) -> bool:
    """A docstring, … or pass: a function of these alone is a head to be continued."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _reads(node: ast.AST, name: str) -> bool:
    """Whether a statement needs the name when it runs; what a lambda needs, it needs later."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            return True
        if not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return False


def _is_closed(text: str) -> bool:
    """Whether every triple quote has its fellow."""
    return text.count('"""') % 2 == 0 and text.count("'''") % 2 == 0


def _tree(code: str) -> ast.Module | None:
    if not compiles(code):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (RecursionError, MemoryError):
            return None


def _lines(text: str) -> list[str]:
    """Lines as Python counts them, each with its end: str.splitlines knows other ends too."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _fault(text: str) -> int | None:
    """The line at which a text ceases to be Python, from 1; None where all of it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "candidate.py", "exec")
        except SyntaxError as error:
            return error.lineno or len(_lines(text)) + 1
        except (ValueError, RecursionError, MemoryError):
            return len(_lines(text)) + 1
    return None
