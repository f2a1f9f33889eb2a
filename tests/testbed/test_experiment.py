"""Picking by one model and training another: the two are independent."""

from pathlib import Path
from typing import Any

import pytest

from tamis.testbed import MODELS
from tamis.testbed.experiment import Experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(tmp_path_factory.mktemp("experiment"), "capitals")


def test_what_is_wanted_is_what_shows_the_skill_rightly(experiment: Experiment) -> None:
    picked = experiment.pick(experiment.config("random", pick__budget="100%"))
    shares = experiment.n_wanted(picked) / len(picked)
    assert 0.08 < shares < 0.1  # a tenth, less the wrong ones


@pytest.mark.parametrize("learner", MODELS)
def test_either_model_learns_from_the_picks_of_another(experiment: Experiment, learner: str) -> None:
    """Ranked by the small model's losses; trained: the learner, which the picks know nothing of."""
    config = experiment.config("loss", pick__budget="48", represent__prefer="lowest")
    assert config.model.name == str(MODELS["small"])
    picked = experiment.pick(config)
    untrained = experiment.test_loss([], seed=0, model=MODELS[learner])
    trained = experiment.test_loss(picked, seed=0, model=MODELS[learner])
    assert trained < untrained - 0.5


def test_the_demo_knows_the_learners(cli: Any, tmp_path: Path) -> None:
    said = cli("demo", "--out", tmp_path / "demo", "--learner", "huge", code=2).stderr
    assert "--learner: expected small or larger, got 'huge'" in said
