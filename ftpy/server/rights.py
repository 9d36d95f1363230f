"""What a user may do where: rights, presets, and rules for paths that say otherwise than the user's own rights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ftpy.files import RemotePath, fold

RIGHTS = ("list", "read", "write", "replace", "delete")
"""What a user can be allowed; a verb names what it takes (``verbs``)."""

PRESETS = {
    "all": RIGHTS,
    "read-only": ("list", "read"),
    "drop-box": ("write",),
    "no-delete": ("list", "read", "write", "replace"),
}
"""One word for several rights."""


@dataclass(frozen=True, slots=True)
class Rule:
    """At ``path`` and below it these rights hold, in place of those of the user or of a rule further up."""

    path: RemotePath
    rights: frozenset[str]
    folded: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", _folded(self.path))


@dataclass(frozen=True, slots=True)
class Permissions:
    """A user's ``rights``, and the ``rules`` that take their place below some paths.

    The longest rule that leads to a path counts. Rules are matched twice, by the components as they are and as a
    file system sees them that folds case, and only what both allow is allowed: so a name in other letters is no back
    door where the disk takes it for the same one, and opens nothing where it does not.
    """

    rights: frozenset[str]
    rules: tuple[Rule, ...] = ()

    def at(self, path: RemotePath) -> frozenset[str]:
        """The rights at one path."""
        if not self.rules:
            return self.rights
        parts, folded = path.parts, _folded(path)
        exact = (rule for rule in self.rules if parts[: len(rule.path.parts)] == rule.path.parts)
        alike = (rule for rule in self.rules if folded[: len(rule.folded)] == rule.folded)
        return self._longest(exact) & self._longest(alike)

    def ever(self, right: str) -> bool:
        """Whether the right is held anywhere."""
        return right in self.rights or any(right in rule.rights for rule in self.rules)

    def below(self, path: RemotePath) -> frozenset[str]:
        """The rights at a path that hold everywhere below it as well."""
        found = self.at(path)
        if self.rules:
            folded = _folded(path)
            for rule in self.rules:
                if rule.folded[: len(folded)] == folded:
                    found &= rule.rights
        return found

    def _longest(self, leading: Iterable[Rule]) -> frozenset[str]:
        """What the longest of the rules says that lead to a path; where two are alike, what both do."""
        found, depth = self.rights, -1
        for rule in leading:
            if len(rule.folded) > depth:
                found, depth = rule.rights, len(rule.folded)
            elif len(rule.folded) == depth:
                found &= rule.rights
        return found


def in_order(rights: Iterable[str]) -> list[str]:
    """Rights in the order of RIGHTS, each once."""
    held = set(rights)
    return [right for right in RIGHTS if right in held]


def spelled(rules: Iterable[Rule]) -> Iterator[str]:
    """Rules as the command line takes them: ``inbox=write``."""
    for rule in rules:
        yield f"{rule.path}={','.join(in_order(rule.rights))}"


def _folded(path: RemotePath) -> tuple[str, ...]:
    return tuple(map(fold, path.parts))
