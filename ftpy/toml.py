"""A TOML file's text: typed settings from it, errors that name file and line, and text from settings."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from ftpy.errors import ConfigError
from ftpy.files import display

T = TypeVar("T")

_WORDS = {
    "`str`": "a string",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a table",
}
"""msgspec's words -> TOML's."""

_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_NAME = rf"({_PART}(?:\s*\.\s*{_PART})*)"
_TABLE_LINE = re.compile(rf"\s*\[\s*{_NAME}\s*\]")
_VALUE_LINE = re.compile(rf"\s*{_NAME}\s*=")


class Source:
    """A TOML file's text, for errors that say where."""

    def __init__(self, path: str, data: bytes) -> None:
        import tomllib

        self.path = display(path)
        try:
            self.text = data.decode("utf-8-sig")
            self.raw = tomllib.loads(self.text)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{self.path}:{line}: not UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            what, _, where = str(error).partition(" (at ")
            found = re.match(r"line (\d+)", where)
            place = f"{self.path}:{found[1] if found else self.text.count(chr(10)) + 1}"
            raise ConfigError(f"{place}: not TOML: {display(what)}") from None
        except (RecursionError, ValueError) as error:  # arrays in arrays without end, numbers of thousands of digits
            raise ConfigError(f"{self.path}: not TOML that can be read: {display(str(error))}") from None

    def convert(self, raw: Any, kind: type[T], prefix: tuple[str, ...] = ()) -> T:
        """``raw``, which stands below ``prefix``, as a ``kind``."""
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$")
            path = tuple(re.findall(r"\.(\w+)", where))
            raise self._invalid(what, kind, prefix, path) from None

    def error(self, path: Iterable[str], message: str) -> ConfigError:
        """A ConfigError about the key at ``path``."""
        line = self._line_of(tuple(path))
        return ConfigError(f"{self.path}:{line}: {message}" if line else f"{self.path}: {message}")

    @contextlib.contextmanager
    def blaming(self, *path: str) -> Iterator[None]:
        """Adds file and line of the key at ``path`` to a ConfigError."""
        try:
            yield
        except ConfigError as error:
            raise self.error(path, str(error)) from None

    def _invalid(self, what: str, kind: Any, prefix: tuple[str, ...], path: tuple[str, ...]) -> ConfigError:
        for part in path:
            kind = get_type_hints(kind)[part]
        table = prefix + path
        if match := re.match(r"Object contains unknown field `(.*)`\Z", what, re.DOTALL):
            place = f" in [{display('.'.join(table))}]" if table else ""
            message = unknown(f"unknown key `{display(match[1])}`{place}", match[1], kind.__struct_fields__)
            return self.error((*table, match[1]), message)
        if match := re.match(r"Object missing required field `(.*)`", what):
            return self.error(table, f"`{match[1]}` is missing")
        if what.startswith("Invalid enum value"):
            what += f", known are: {listed(_choices(kind))}"
        said = re.sub(r"`[^`]+`", lambda words: _in_words(words[0]), what)
        return self.error(table, f"`{display('.'.join(table))}`: {said[:1].lower()}{display(said[1:])}")

    def _line_of(self, path: tuple[str, ...]) -> int | None:
        """The line of the key at ``path``, else of the nearest table around it."""
        table: tuple[str, ...] = ()
        best, best_length = None, 0
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _TABLE_LINE.match(line):
                found = table = _split(header[1])
            elif value := _VALUE_LINE.match(line):
                found = table + _split(value[1])
            else:
                continue
            if len(found) > best_length and found == path[: len(found)]:
                best, best_length = number, len(found)
        return best


def _choices(kind: Any) -> list[str]:
    """The words of a Literal, also where it is one of several types; "a whole number" for a number's."""
    if kind is int:
        return ["a whole number"]
    return [word for one in get_args(kind) for word in ([one] if isinstance(one, str) else _choices(one))]


def _in_words(types: str) -> str:
    """msgspec's "`int | str`" for people."""
    return " or ".join(_WORDS.get(f"`{one}`", f"`{one}`") for one in types.strip("`").split(" | "))


def _split(name: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, name))


def unknown(message: str, name: str, known: Iterable[str]) -> str:
    """``message``, and the one of the ``known`` that ``name`` comes near, else all of them."""
    import difflib

    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"{message}; did you mean {display(near[0])}?" if near else f"{message}; known are: {listed(names)}"


def listed(names: Iterable[str]) -> str:
    """``names`` in a line, fit for a terminal."""
    return ", ".join(display(name) for name in names)


def to_toml(settings: Struct, *, comments: bool = True) -> str:
    """``settings`` as TOML, every value explicit, each key below what it means; None is left out.

    What may be there any number of times (``[commands.NAME]``) is a table each.
    """
    lines: list[str] = []
    tables: list[str] = []
    hints = get_type_hints(type(settings), include_extras=True)
    for key, value in msgspec.structs.asdict(settings).items():
        if isinstance(value, Struct):
            tables.append(_table(key, value, comments=comments))
        elif _holds_tables(hints[key]):
            tables += [_table(f"{key}.{name}", one, comments=comments) for name, one in value.items()]
        elif value is not None:
            if comments:
                lines += [f"# {meta.description}" for meta in get_args(hints[key])[1:] if meta.description]
            lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines) + "\n" + "".join(tables)


def _table(name: str, settings: Struct, *, comments: bool) -> str:
    note = [f"# {(type(settings).__doc__ or '').splitlines()[0]}"] if comments else []
    return "\n".join(["", *note, f"[{name}]", to_toml(settings, comments=comments)])


def _holds_tables(hint: Any) -> bool:
    """Whether this is a dict of structs, with or without notes."""
    kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return get_origin(kind) is dict and issubclass(get_args(kind)[1], Struct)


def _value(value: Any) -> str:
    import tomlkit

    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update(value)
        return str(inline.as_string())
    return str(tomlkit.item(value).as_string())
