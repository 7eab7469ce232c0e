"""What the source says beside the data: texts below fields, codes where they are given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

__all__ = ["GivenCode", "field_texts", "given_codes", "recorded_codes"]

SOURCE = Path(__file__).parents[1] / "src" / "leitwolf"
_ELSEWHERE = ("core/policy/codes.py", "model/errors.py")
"""These have pages of their own."""
_RECORDERS = {"_record", "record", "Recorded"}


@dataclass(frozen=True, slots=True, order=True)
class GivenCode:
    """A code, the module that gives it, and the text that comes with it."""

    code: str
    module: str
    text: str


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), _tree(path)


def _target(node: ast.stmt) -> str:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return ""


def field_texts(module: str, name: str = "") -> dict[str, str]:
    """Return the text below each field of a class, or below each constant of a module.

    Args:
        module: path below the package, for example ``model/limits.py``.
        name: class; '': the module itself.
    """
    body = _tree(SOURCE / module).body
    if name:
        found = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
        body = found[0].body if found else []
    texts = {}
    for node, following in pairwise(body):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if _target(node) and is_text:
            texts[_target(node)] = " ".join(str(following.value.value).split())  # type: ignore[attr-defined]
    return texts


def _text(node: ast.expr | None) -> str:
    """Return a text as readers see it, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _text(part) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    return ""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def given_codes() -> list[GivenCode]:
    """Return every code that is given as ``code="..."`` outside of the core and the error tree."""
    found: dict[tuple[str, str], GivenCode] = {}
    for module, tree in _modules():
        if module in _ELSEWHERE or module.startswith(("core/", "sim/")):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            code = _text(keywords.get("code"))
            if code:
                text = _text(node.args[0] if node.args else keywords.get("text"))
                known = found.get((code, module))
                if known is None or not known.text:
                    found[code, module] = GivenCode(code, module, text)
    return sorted(found.values())


def recorded_codes() -> list[GivenCode]:
    """Return every code that a guard writes into the local recorder."""
    found = set()
    for module, tree in _modules():
        if not module.startswith(("guard/", "core/lease/")):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or _name(node.func) not in _RECORDERS:
                continue
            texts = [_text(item) for item in node.args if _text(item)]
            if texts and " " not in texts[0]:
                found.add(GivenCode(texts[0], module, texts[1] if len(texts) > 1 else ""))
    return sorted(found)
