"""Any YAML file and any KEY=VALUE: a Config, or an InputError."""

import tempfile
from pathlib import Path

from tamis.config import Config, known_keys, load_config, parse_override
from tamis.errors import InputError

_PATH = Path(tempfile.mkdtemp(prefix="tamis-fuzz-")) / "run.yaml"
_DEFAULTS = Config().to_yaml().encode()
SEEDS = [
    b"\0" + _DEFAULTS,
    b"\0data: {pool: [a, b], fields: {prompt: [x, y]}}\npick: {method: less+round_robin, budget: 5%}\n",
    b"\0<<: &a [*a]\n? [1]\n: !!python/object:x {}\n",
    *(b"\1" + key.encode() + b"=1" for key in known_keys()),
    b"\1pick.options={balanced: true}\npick.method=random\npick.budget=100tok",
]


def one(data: bytes) -> None:
    """After a zero a file; after anything else a setting a line."""
    if not data:
        return
    try:
        if data[0] == 0:
            _PATH.write_bytes(data[1:])
            config = load_config(_PATH)
        else:
            lines = data[1:].decode(errors="replace").split("\n")
            config = load_config(None, dict(parse_override(line) for line in lines))
    except InputError:
        return
    config.to_yaml()
