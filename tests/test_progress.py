"""Bars, plain lines, JSON events."""

import json
from io import StringIO

import pytest
from rich.console import Console

from tamis import progress
from tamis.progress import Progress, Silent


def run(shown: Progress, n_tokens: int = 100) -> None:
    shown.note("pool: [bold] rows, é")
    with shown.stage("warm up", n_tokens) as advance:
        advance(40)
        advance(60)


@pytest.fixture
def every_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)


def test_json_events(capsys: pytest.CaptureFixture[str], every_advance: None) -> None:
    run(progress.make("json"))
    captured = capsys.readouterr()
    assert captured.out == ""
    note, start, first, second, end = map(json.loads, captured.err.splitlines())
    assert note == {"event": "note", "text": "pool: [bold] rows, é"}
    assert start == {"event": "start", "stage": "warm up", "tokens": 100}
    assert (first["tokens"], second["tokens"], second["of"], second["seconds_left"]) == (40, 100, 100, 0)
    assert (end["event"], end["stage"]) == ("end", "warm up")
    assert end["seconds"] >= 0


def test_plain_lines(capsys: pytest.CaptureFixture[str], every_advance: None) -> None:
    run(progress.make("plain"))
    note, start, first, second, end = capsys.readouterr().err.splitlines()
    assert note == "pool: [bold] rows, é"
    assert start == "warm up …"
    assert first.startswith("warm up: 40%, ")
    assert second.startswith("warm up: 100%, ")
    assert second.endswith(" 0.0 s left")
    assert end.startswith("warm up: done in 0.")


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.make("auto")  # stderr is no terminal here
    with shown.stage("represent", 1000) as advance:
        for _ in range(1000):
            advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_stage_of_unknown_size_has_no_share(capsys: pytest.CaptureFixture[str], every_advance: None) -> None:
    run(progress.make("plain"), n_tokens=0)
    assert "%" not in capsys.readouterr().err


@pytest.mark.parametrize("n_tokens", [0, 100, 90])
def test_bars_without_a_terminal(n_tokens: int) -> None:
    out = StringIO()
    run(progress.Bars(Console(file=out, width=100)), n_tokens)
    assert "pool: [bold] rows, é" in out.getvalue()  # not taken for markup
    assert "warm up" in out.getvalue()
    assert "100%" in out.getvalue()


@pytest.mark.parametrize("kind", ["bar", "plain", "json"])
def test_an_error_inside_a_stage_comes_through(kind: progress.Kind) -> None:
    shown = progress.make(kind)
    with pytest.raises(KeyboardInterrupt), shown.stage("warm up", 10):
        raise KeyboardInterrupt


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    run(Silent())  # a library call has nobody to tell
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61.2, "1:01 min"), (3599.9, "1:00:00"), (7322.0, "2:02:02")],
)
def test_clock(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text
