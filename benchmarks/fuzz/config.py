"""Any YAML file and any KEY=VALUE: a Config, or an InputError."""

import tempfile
from pathlib import Path

import yaml

from tamis.config import Config, known_keys, load_config, parse_override
from tamis.errors import InputError

_PATH = Path(tempfile.mkdtemp(prefix="tamis-fuzz-")) / "run.yaml"
_DEFAULTS = Config().to_yaml().encode()
SEEDS = [
    b"\0" + _DEFAULTS,
    b"\0data: {pool: [a, b], fields: {prompt: [x, y]}}\npick: {method: less+round_robin, budget: 5%}\n",
    b"\0<<: &a [*a]\n? [1]\n: !!python/object:x {}\n",
    b"\0seed: !!int ''\nout: !!timestamp x\nworkspace: !!binary YQ==\nlimit: !!bool x\ndata: !!set {a}\n",
    b"\0seed: 2001-12-14t21:59:43.10-05:00\nwarmup: {learning_rate: 1_0:30.5e+3, weight_decay: .inf}\n",
    b'\0out: "\\x00\\ud800\\N"\ndata: {pool: [0o17, 0x1F, 0b1, ~, =, <<]}\npick: {options: &b {reduce: *b}}\n',
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
    if load_config(None, yaml.safe_load(config.to_yaml())).to_yaml() != config.to_yaml():
        raise AssertionError("the settings written are not those read")
