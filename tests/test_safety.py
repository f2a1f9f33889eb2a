"""Nothing from outside runs, no row leaves the output folder, no secret is kept, no markup or control code passes."""

import ast
import json
import os
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tamis

Cli = Callable[..., Any]

SOURCE = sorted(Path(tamis.__file__).parent.rglob("*.py"))
EVIL = [
    "../../../escaped",
    "/etc/passwd",
    "con<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% include 'style.css.j2' %}",
    "a\x00b\x1b[31mred\x07\nnext\r",
    "$(touch escaped)`id`;rm -rf .",
    "C:\\Windows\\x",
    "x" * 5000,
    "\u202egnp.exe",
]


# What a model wrote is run where it is asked for, and in the sandbox alone: see tests/evaluation/test_code.py
NOT_FROM_OUTSIDE = {
    "data/index.py": ["marshal"],  # of a nameless file that this process alone can read and write
    "engine/farewell.py": ["subprocess"],  # Python, with a sentence of its own
    "engine/ray.py": ["pickle"],  # of results, between the processes of one run, as Ray itself does
    "evaluation/code_blocks.py": ["compile"],  # to see whether it is Python; nothing runs
    "evaluation/sandbox.py": ["subprocess"],
    "evaluation/sandbox_child.py": ["exec", "compile"],
}


# ---- code ----------------------------------------------------------------------------------------------------------


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, by the dotted name called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def constant(call: ast.Call, name: str) -> Any:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def unsafe(path: Path) -> list[str]:
    """Calls that would run what a file says, and imports of modules that can do nothing else."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} == {"UnpicklingError"}:
            names = []  # what torch.load(weights_only=True) raises
        found += [
            name for name in names if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib")
        ]
        found += [name for name in names if name.split(".")[0] in ("marshal", "shelve", "subprocess")]
    for name, call in calls(path):
        last = name.rsplit(".", 1)[-1]
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            found.append(name)
        if name in ("torch.load", "load_file_pickle") and constant(call, "weights_only") is not True:
            found.append("torch.load")
        if name in ("np.load", "numpy.load") and constant(call, "allow_pickle") is not False:
            found.append("numpy.load")
        if name.startswith("yaml.") and last in ("load", "load_all", "unsafe_load", "full_load"):
            found.append(name)
        if last == "open_memmap" and constant(call, "mode") is None:
            found.append(name)
        if any(k.arg == "trust_remote_code" and ast.unparse(k.value) == "True" for k in call.keywords):
            found.append("trust_remote_code=True")
    return found


@pytest.mark.parametrize("path", SOURCE, ids=lambda path: str(path.relative_to(SOURCE[0].parent)))
def test_no_file_is_run(path: Path) -> None:
    assert unsafe(path) == NOT_FROM_OUTSIDE.get(str(path.relative_to(SOURCE[0].parent)), [])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from subprocess import run", ["subprocess"]),
        ("torch.load(x)", ["torch.load"]),
        ("torch.load(x, weights_only=False)", ["torch.load"]),
        ("np.load(x, allow_pickle=True)", ["numpy.load"]),
        ("yaml.load(x, Loader=yaml.Loader)", ["yaml.load"]),
        ("eval('1')", ["eval"]),
        ("f(trust_remote_code=True)", ["trust_remote_code=True"]),
        ("torch.load(x, weights_only=True); yaml.safe_load(x); model.eval(); f(trust_remote_code=x)", []),
    ],
)
def test_the_check_finds_what_it_is_for(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "x.py").write_text(text)
    assert unsafe(tmp_path / "x.py") == found


@pytest.fixture
def model_with_code(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder whose configuration and tokenizer name Python files that leave a trace when they are run."""
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    trace = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (folder / "evil.py").write_text(
        trace + "from transformers import LlamaConfig as Evil, LlamaForCausalLM as EvilModel\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    tokenizer["tokenizer_class"] = "Evil"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_code_that_comes_with_a_model_is_not_run(
    cli: Cli, model_with_code: Path, pool_file: Path, target_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    words = ["--pool", pool_file, "--target", target_file, "--model", model_with_code, "--workspace", tmp_path / "ws"]
    result = cli("select", *words, "--out", tmp_path / "out", code=2)
    [said] = [line for line in result.stderr.splitlines() if line.startswith("tamis: ")]
    assert "trust" in said
    assert not (tmp_path / "ran").exists()


# ---- data ----------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def evil_run(cli: Cli, tmp_path: Path) -> Callable[..., Any]:
    """A run over rows whose every field holds something evil, in a folder of its own that lies deep enough."""

    def run(*words: object) -> Any:
        data = tmp_path / "a" / "b" / "c"
        data.mkdir(parents=True)
        rows = [
            {"id": text, "source": text, "subtask": text, "prompt": text, "completion": f"{text} yes"} for text in EVIL
        ]
        for name, some in (("pool", rows), ("target", rows[:4])):
            bad = "\n".join(json.dumps({"prompt": text}) for text in EVIL[: 1 if name == "pool" else 0])
            (data / f"<b>{name}&.jsonl").write_text("\n".join(map(json.dumps, some)) + "\n" + bad)
        words = ("--pool", data / "<b>pool&.jsonl", "--target", data / "<b>target&.jsonl", *words)
        words = (*words, "--keep-leaks")  # a pool row is equal to a target row
        return cli("select", *words, "--max-bad-rows", "50%", "--out", data / "out", "--workspace", data / "ws")

    return run


@pytest.mark.parametrize("method", ["bm25", "bm25+round_robin", "random"])
def test_rows_cannot_leave_the_output_folder(evil_run: Any, tmp_path: Path, monkeypatch: Any, method: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = evil_run("--method", method, "--budget", "100%")
    data = tmp_path / "a" / "b" / "c"
    names = {"selected.jsonl", "picks.parquet", "config.yaml", "manifest.json", "rejected.jsonl"}
    names |= {"report.html", "report.json", "figures", "tables"}
    assert {path.name for path in (data / "out").iterdir()} == names
    assert {path.name for path in data.iterdir()} - {"ws"} == {"<b>pool&.jsonl", "<b>target&.jsonl", "out"}
    assert all(path.startswith("a") for path in tree(tmp_path))
    workspace = tree(data / "ws") if (data / "ws").exists() else set()
    assert {path.split("/")[0] for path in workspace} <= {"similarity"}
    assert pq.read_table(data / "out" / "picks.parquet").num_rows == len(EVIL)
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


def test_every_field_is_escaped_in_the_report(evil_run: Any, tmp_path: Path) -> None:
    evil_run("--method", "bm25+round_robin", "--budget", "100%")
    html = (tmp_path / "a" / "b" / "c" / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.tags & {"script", "img", "b", "iframe", "link", "a"}
    assert not page.attributes & {"onerror", "onclick", "src", "href"}
    for text in EVIL[:5]:  # source of the table, source, id and target of the pick, its turns
        assert page.text.count(text) >= 5, text
    assert "<b>pool&.jsonl" in page.text  # a rejected row's file
    assert "\x1b" not in html
    assert "\x00" not in html


def test_inspect_shows_no_control_codes(cli: Cli, evil_run: Any, tmp_path: Path, tiny_model: Path) -> None:
    evil_run("--method", "random")
    file = tmp_path / "a" / "b" / "c" / "<b>pool&.jsonl"
    for words in ([], ["--tokens", "--model", tiny_model]):
        output = cli("inspect", file, "--rows", "99", *words).output
        assert "\x1b[31mred" not in output
        assert "\\x1b[31mred\\x07\nnext\\r" in output


# ---- secrets -------------------------------------------------------------------------------------------------------

SECRETS = {
    "HF_TOKEN": "hf_ThisIsASecretOfTheHub",
    "HUGGING_FACE_HUB_TOKEN": "hf_AnotherSecretOfTheHub",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-secret",
    "AWS_ACCESS_KEY_ID": "AKIA-secret-id",
    "HTTPS_PROXY": "http://me:proxy-secret@127.0.0.1:9",
    "MY_PRIVATE_VARIABLE": "nobody-may-see-this",
}


def test_secrets_of_the_environment_are_nowhere(
    cli: Cli, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    words = [f"{key}={value}" for key, value in settings.items()]
    cli("select", *words, "--workspace", tmp_path / "ws", "--out", tmp_path / "out")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = repr(pq.read_table(path).to_pylist()).encode() + repr(pq.read_schema(path).metadata).encode()
        for value in SECRETS.values():
            assert value.encode() not in content, path
    home = os.environ.get("USER")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "environ" not in json.dumps(manifest)
    assert home is None or set(manifest) >= {"pool", "method"}


@pytest.mark.parametrize("flag", ["--pool", "--target", "--model", "--out", "--workspace", "--checkpoints"])
def test_secrets_of_the_command_line_are_refused_and_not_repeated(cli: Cli, pool_file: Path, flag: str) -> None:
    words = ["select", "--pool", pool_file, "--target", pool_file, "--model", "m", flag, "https://me:hunter2@host/x"]
    result = cli(*words, code=2)
    assert "expected no password or token" in result.stderr
    assert "hunter2" not in result.output
