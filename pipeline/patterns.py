"""Which keys are taken: patterns of `--include` and `--exclude`, of a source and of an archive alike."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The command line's help needs the patterns of `sources.selection`, and loads no pyarrow for it.
    from pipeline.records import SkipReason

_WILDCARDS = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPatterns:
    """Which keys to take."""

    include: tuple[str, ...] = ()
    """Patterns (`fnmatch`, over the whole key, so that `*` crosses slashes) one of which must match; empty: all do."""
    exclude: tuple[str, ...] = ()
    """Patterns none of which may match; they win over `include`."""

    def __str__(self) -> str:
        """As options: `--include '2024/*' --exclude '*.png'`."""
        from shlex import quote

        options = [("--include", pattern) for pattern in self.include] + [("--exclude", pattern) for pattern in self.exclude]
        return " ".join(f"{name} {quote(pattern)}" for name, pattern in options)

    @property
    def takes_all(self) -> bool:
        """Whether there are no patterns."""
        return not (self.include or self.exclude)

    def refusal(self, key: str) -> SkipReason | None:
        """Return why a key is not taken; None if it is."""
        from pipeline.records import SkipReason

        if any(fnmatchcase(key, pattern) for pattern in self.exclude):
            return SkipReason.EXCLUDED
        if self.include and not any(fnmatchcase(key, pattern) for pattern in self.include):
            return SkipReason.NOT_INCLUDED
        return None

    def takes(self, key: str) -> bool:
        """Return whether a key is taken."""
        return self.refusal(key) is None

    def folder_refusal(self, folder: str) -> SkipReason | None:
        """Return why no key below a folder can be taken; None if one may be.

        Args:
            folder: key of the folder, without a slash at its end.
        """
        from pipeline.records import SkipReason

        inside = f"{folder}/"
        # A pattern that matches whatever follows; others may leave some of the files.
        if any(pattern.endswith("*") and fnmatchcase(inside, pattern) for pattern in self.exclude):
            return SkipReason.EXCLUDED
        if self.include and not any(_may_match_below(inside, pattern) for pattern in self.include):
            return SkipReason.NOT_INCLUDED
        return None

    def may_take_between(self, least: str, greatest: str) -> bool:
        """Return whether a key from `least` to `greatest` may be taken, as far as the text before each first wildcard tells."""
        for pattern in self.exclude:
            prefix = _fixed(pattern)
            if pattern[len(prefix) :] == "*" and least.startswith(prefix) and greatest.startswith(prefix):
                return False
        prefixes = map(_fixed, self.include)
        return not self.include or any(least[: len(p)] <= p <= greatest[: len(p)] for p in prefixes)


EVERY_KEY = KeyPatterns()


def _may_match_below(inside: str, pattern: str) -> bool:
    """Return whether a key that begins with `inside` may match."""
    fixed = _fixed(pattern)
    return fixed.startswith(inside) or (fixed != pattern and inside.startswith(fixed))


def _fixed(pattern: str) -> str:
    """Return what stands before the first wildcard."""
    return pattern[: min((pattern.find(character) for character in _WILDCARDS if character in pattern), default=len(pattern))]
