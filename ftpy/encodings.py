"""Encodings of text that are read piece by piece, in time that grows with the text.

Python knows more: what turns bytes into bytes, what keeps all that came until the end (idna), what begins anew with
each piece (punycode, utf-7), what fails without a byte order mark (utf-16), or is Python's own spelling
(unicode-escape). A peer may name any of them.
"""

from __future__ import annotations

import codecs
import re

_TEXT = re.compile(
    r"ascii|utf-8(-sig)?|utf-(16|32)-[bl]e|iso8859-\d+|cp\d+|koi8-[rtu]|mac-[a-z0-9]+|hp-roman8|kz1048|ptcp154|tis-620"
    r"|palmos|big5(hkscs)?|gb(2312|k|18030)|hz|euc_[a-z0-9_]+|iso2022_[a-z0-9_]+|shift_jisx?[0-9_]*|johab"
)
"""Names that codecs are registered under."""


def is_text(encoding: str) -> bool:
    """Whether this names one of them, by any of its names."""
    try:
        return _TEXT.fullmatch(codecs.lookup(encoding).name) is not None
    except (LookupError, ValueError):
        return False


def decoder(encoding: str) -> codecs.IncrementalDecoder:
    """What reads it piece by piece and replaces what is none of it; UTF-8 where it is not one of text."""
    return codecs.getincrementaldecoder(encoding if is_text(encoding) else "utf-8")("replace")
