"""The few errors of tamis. Each message says what was expected, what was found, where, and what to do.

`printable` is for messages that repeat text from data.
"""


class TamisError(Exception):
    """Base of every error that tamis raises on purpose; the command line prints it as one sentence and exits with 2."""


class InputError(TamisError, ValueError):
    """A file, row or argument cannot be used as given."""


class ChatError(TamisError):
    """A chat template cannot be rendered, or gives no trustworthy loss mask."""


class ModelError(TamisError):
    """A model cannot be loaded, or holds a layer whose per-example gradient tamis cannot form."""


class StoreError(TamisError):
    """A cached artifact does not match what was asked for."""


class DamagedError(StoreError):
    """A cached file fails its checksum or cannot be read; `tamis verify` names it and sets it aside."""


class RemoteError(TamisError):
    """A URL cannot be read or written: the server is away, refuses or is unknown. Nothing there is damaged."""


class EngineError(TamisError):
    """The workers of a run cannot be reached, or were lost too often."""


_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they turn the order of what follows around


def printable(text: str, keep: str = "") -> str:
    """Text from data as a terminal may have it: control characters (but those to keep) as Python would write them.

    So are those that turn the direction of the text that follows, which would let a row look like another.
    """
    is_control = [(c < " " or "\x7f" <= c <= "\x9f" or c in _TURNING) and c not in keep for c in text]
    return "".join(repr(c)[1:-1] if control else c for c, control in zip(text, is_control, strict=True))
