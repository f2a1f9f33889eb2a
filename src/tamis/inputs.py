"""What a run reads: pool, target, tokenizer. Each is read when first needed, and what could not be used is kept."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from tamis.config import Config
from tamis.data.chat import Chat, Encoded
from tamis.data.example import Example
from tamis.data.files import FileReport, ReadResult, Rejected, read
from tamis.data.pool import Pool
from tamis.errors import ChatError, InputError, StoreError
from tamis.model.load import (
    ModelSource,
    load_tokenizer,
    max_positions,
    model_digest,
    number_format,
)
from tamis.settings import DataConfig

MAX_TOKENS = 2048
_N_ENCODED = 65_536  # rows whose tokens are kept at once: some 100 MB
_N_COUNTED = 1 << 19  # rows whose number of supervised tokens is kept at once: some 150 MB


def digest(*parts: Any) -> str:
    """128-bit digest (hex) of JSON-like values and dataclasses."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"cannot digest a {type(value).__name__}")

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_rows(data: DataConfig, paths: Sequence[str], limit: int | None = None) -> ReadResult:
    """Rows of files, read as the settings say."""
    return read(
        paths,
        fields={name: tuple(columns) for name, columns in data.fields.items()},
        format_name=data.format,
        limit=limit,
        on_bad_row=data.on_bad_row,
        max_bad=Fraction(data.max_bad_rows.removesuffix("%")) / 100,
    )


class Inputs:
    """The inputs of one run. `note` gets one sentence about each thing read."""

    def __init__(self, config: Config, note: Callable[[str], None]) -> None:
        self._config, self._note = config, note
        # Ordered: a dict gets slower the more of its first entries are gone
        self._encoded: OrderedDict[str, Encoded | str] = OrderedDict()
        self._n_supervised: OrderedDict[str, int] = OrderedDict()
        self._skipped: dict[str, list[tuple[str, int, str]]] = {}
        self._kept: dict[str, list[tuple[str, int, str]]] = {}
        self.rejected: list[Rejected] = []
        self.files: list[FileReport] = []
        self._as_named: dict[str, bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to read rows as this one does: the settings, and what is known of the model."""
        known = ("base_digest", "dtype", "max_tokens", "source")
        return {"config": self._config, **{name: vars(self)[name] for name in known if name in vars(self)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config = state.pop("config")
        self.__init__(config, lambda _: None)  # type: ignore[misc]
        vars(self).update(state)

    @cached_property
    def pool(self) -> Pool:
        """The candidates."""
        data = self._config.data
        pool = self._read("pool", data.pool, data.limit, data.keep_duplicates)
        if not self._as_named["pool"]:  # is what --field says meant for another file? Better known before hours of work
            _ = (data.target or data.targets) and self.target, self.evaluation
        return pool

    @property
    def pool_rows(self) -> Pool:
        """Every row of the pool's files that can be read, equal ones included."""
        _ = self.pool
        return self._all_rows

    @cached_property
    def targets(self) -> dict[str, Pool]:
        """The few examples that show each capability; each counts as often as it is given."""
        data = self._config.data
        if not data.targets:
            return {"target": self._read("target", data.target, None, True)}
        return {name: self._read(f"target {name}", given.files, None, True) for name, given in data.targets.items()}

    @property
    def has_target(self) -> bool:
        """Whether any is given."""
        return bool(self._config.data.target or self._config.data.targets)

    @cached_property
    def target(self) -> Pool:
        """The rows of all targets, one target after the other."""
        return Pool.of((e for target in self.targets.values() for e in target), keep_duplicates=True)

    @cached_property
    def evaluation(self) -> Pool:
        """Test rows that no pick may give away."""
        paths = self._config.data.evaluation
        return self._read("evaluation", paths, None, True) if paths else Pool.of([])

    def _read(self, what: str, paths: Sequence[str], limit: int | None, keep_duplicates: bool) -> Pool:
        if not paths:
            needless = ", or pick without one: --method tagcos" if what == "target" else ""
            if what not in ("pool", "target"):
                raise InputError(
                    f"no files given for {what}: say data.targets.{what.removeprefix('target ')}.files=FILE"
                )
            raise InputError(f"no {what} given: say --{what} FILE (or data.{what} in the configuration){needless}")
        data = self._config.data
        result = read_rows(data, paths, limit)
        self.rejected += result.rejected
        self.files += result.files
        if what == "pool":
            self._all_rows = Pool(result.examples)
        self._check_named(what, any(file.as_named for file in result.files))
        pool = Pool.of(result.examples, keep_duplicates=keep_duplicates)
        for file in result.files:
            self._note(f"{what}: {file.path}: {file.n_good:,} rows, {file.recognised}")
        if pool.n_duplicates:
            done = "count again" if keep_duplicates else "are left out"
            self._note(f"{what}: rows equal to an earlier one that {done}: {pool.n_duplicates:,}")
        self._report(f"{what}, unreadable", [(r.file, r.row, r.reason) for r in result.rejected])
        return pool

    def _check_named(self, what: str, as_named: bool) -> None:
        """Refuse --field and --format that fit no file at all."""
        self._as_named[what] = as_named
        data = self._config.data
        n_reads = 1 + (len(data.targets) or bool(data.target)) + bool(data.evaluation)
        if not any(self._as_named.values()) and len(self._as_named) == n_reads:
            columns = [column for columns in data.fields.values() for column in columns]
            given = f"the columns {', '.join(columns)}" if columns else f"rows that --format {data.format} reads"
            raise InputError(f"no file has {given}: see the fields of a file with `tamis inspect FILE`")

    def leave_out(self, what: str, examples: Sequence[tuple[Example, str]]) -> None:
        """Report rows that were read but are not used, with the reason of each, and keep them for the record."""
        self._report(what, [(e.file, e.row, reason) for e, reason in examples])

    def tell(self, what: str, examples: Sequence[tuple[Example, str]]) -> None:
        """Report rows that stay candidates all the same, with a reason of each, and keep them for the record."""
        rows = [(e.file, e.row, reason) for e, reason in examples]
        if self._kept.get(what) != rows:
            self._tell(what, rows)
        self._kept[what] = rows

    def _report(self, what: str, rows: list[tuple[str, int, str]]) -> None:
        if self._skipped.get(what) != rows:
            self._tell(what, rows)
        self._skipped[what] = rows

    def _tell(self, what: str, rows: list[tuple[str, int, str]]) -> None:
        if rows:
            shown = "; ".join(f"{file} row {row}: {reason}" for file, row, reason in rows[:3])
            counted = f"{len(rows):,} rows" if len(rows) > 1 else "1 row"
            self._note(f"{what}: {counted}: {shown}" + ("; …" if len(rows) > 3 else ""))

    # ---- model -----------------------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        model = self._config.model
        if model.name is None:
            raise InputError("no model given: say --model FOLDER or hub name (or model.name in the configuration)")
        spread = tuple(model.device_map.items()) if isinstance(model.device_map, dict) else model.device_map
        return ModelSource(
            model.name,
            model.revision,
            model.dtype,
            model.device,
            model.trust_remote_code,
            model.quantization,
            spread,
        )

    @cached_property
    def base_digest(self) -> str:
        """Digest of the base model's files."""
        return model_digest(self.source)

    @cached_property
    def dtype(self) -> str:
        """The number format the base model is held in."""
        return number_format(self.source)

    @cached_property
    def max_tokens(self) -> int:
        """Longer rows are cut on the right."""
        positions = max_positions(self.source)
        asked = self._config.model.max_tokens
        if asked is not None and positions is not None and asked > positions:
            raise InputError(f"model.max_tokens is {asked}, but {self.source.name} has {positions} positions")
        return asked or min(MAX_TOKENS, positions or MAX_TOKENS)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.source)

    @cached_property
    def chat(self) -> Chat:
        """Renders, tokenises and masks."""
        chat = Chat(self.tokenizer, max_tokens=self.max_tokens, template=self._config.model.template)
        self._note(f"chat: {chat.name}; at most {self.max_tokens:,} tokens a row")
        return chat

    def check_base(self, base_digest: str, folder: str) -> None:
        """Refuse checkpoints of another base model."""
        if base_digest != self.base_digest:
            raise StoreError(
                f"{folder}: its checkpoints were trained on a base model with digest {base_digest}, "
                f"but {self.source.name} has {self.base_digest}. Give the model they belong to"
            )

    def encode(self, example: Example) -> Encoded | str:
        """Tokens and loss mask of an example, or the reason why it has none."""
        if example.id not in self._encoded:
            try:
                self._encoded[example.id] = self.chat.encode(example)
            except ChatError as error:
                self._encoded[example.id] = str(error)
            if len(self._encoded) > _N_ENCODED:
                self._encoded.popitem(last=False)
        return self._encoded[example.id]

    def n_supervised(self, example: Example) -> int:
        """Supervised tokens of an example; 0 where it cannot be rendered."""
        if example.id not in self._n_supervised:
            encoded = self.encode(example)
            self._n_supervised[example.id] = 0 if isinstance(encoded, str) else encoded.n_supervised
            if len(self._n_supervised) > _N_COUNTED:
                self._n_supervised.popitem(last=False)
        return self._n_supervised[example.id]

    def warmup_rows(self, config: Config | None = None) -> list[tuple[Example, Encoded]]:
        """The pool rows the warm-up trains on (or that of another run on these inputs): the first usable ones of a
        seeded permutation."""
        config = config or self._config
        warmup, pool = config.warmup, self.pool
        share = Fraction(warmup.share.removesuffix("%")) / 100
        n_rows = min(len(pool), max(int(share * len(pool)), warmup.min_examples))
        rows: list[tuple[Example, Encoded]] = []
        for position in np.random.default_rng(config.seed).permutation(len(pool)):
            if len(rows) == n_rows:
                break
            example = pool[int(position)]
            encoded = self.encode(example)
            if not isinstance(encoded, str) and encoded.n_supervised:
                rows.append((example, encoded))
        if not rows:
            example = pool[0]
            reason = self.encode(example)
            raise InputError(
                f"no pool row can be trained on; {example.file} row {example.row}: "
                + (reason if isinstance(reason, str) else f"no completion token within {self.max_tokens} tokens")
            )
        return rows

    # ---- for the record --------------------------------------------------------------------------------------------

    @property
    def left_out(self) -> dict[str, list[dict[str, Any]]]:
        """Rows that were read but are not used, by what they were left out for, with the reason of each."""
        return _reasons(self._skipped)

    def manifest(self) -> dict[str, Any]:
        """What was read: counts, digests, every row left out with its reason."""
        facts: dict[str, Any] = {"pool": _facts(self.pool)}
        facts["pool"]["keep_duplicates"] = self._config.data.keep_duplicates
        if self._config.data.target or self._config.data.targets:
            facts["target"] = _facts(self.target)
        if self._config.data.evaluation:
            facts["evaluation"] = _facts(self.evaluation)
        if self._config.model.name is not None:
            facts["model"] = {
                "name": self.source.name,
                "digest": self.base_digest,
                "template": self.chat.name,
                "max_tokens": self.max_tokens,
                "dtype": self.dtype,
            }
        facts["left_out"] = _reasons(self._skipped)
        if kept := _reasons(self._kept):
            facts["kept"] = kept
        return facts


def _reasons(found: dict[str, list[tuple[str, int, str]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        what: [{"file": file, "row": row, "reason": reason} for file, row, reason in rows]
        for what, rows in found.items()
        if rows
    }


def _facts(pool: Pool) -> dict[str, Any]:
    return {
        "digest": pool.digest,
        "n_rows": len(pool),
        "n_duplicates": pool.n_duplicates,
        "sources": dict(pool.labels("source").counts()),
    }
