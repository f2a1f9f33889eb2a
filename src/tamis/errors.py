"""The few errors of tamis. Each message says what was expected, what was found, where, and what to do."""


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
