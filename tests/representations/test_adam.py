"""Directions on numbers worked out by hand; against torch's own optimizer see test_gradient.py."""

import pytest
import torch

from tamis.model.checkpoint import Moments
from tamis.representations.adam import Direction

MOMENTS = Moments(
    exp_avg={"w": torch.tensor([0.5, -1.0])},
    exp_avg_sq={"w": torch.tensor([0.25, 4.0])},
    step=1,
    betas=(0.5, 0.75),
    eps=1.0,
)
GRADIENT = torch.tensor([[2.0, 0.0]])
# m' = [1.25, -0.5]; v' = [0.1875 + 1, 3]; t = 2: 1−β₁² = 0.75, 1−β₂² = 0.4375


def test_torch_form():
    found = Direction("torch", MOMENTS).apply_("w", 0, GRADIENT.clone())
    expected = torch.tensor([[1.25 / 0.75 / ((1.1875 / 0.4375) ** 0.5 + 1), -0.5 / 0.75 / ((3 / 0.4375) ** 0.5 + 1)]])
    torch.testing.assert_close(found, expected)


def test_less_form():
    found = Direction("less", MOMENTS).apply_("w", 0, GRADIENT.clone())
    torch.testing.assert_close(found, torch.tensor([[1.25 / 2.1875**0.5, -0.5 / 4**0.5]]))


def test_sgd_and_sign_need_no_moments():
    assert torch.equal(Direction("sgd").apply_("w", 0, GRADIENT.clone()), GRADIENT)
    assert torch.equal(Direction("sign").apply_("w", 0, GRADIENT.clone()), torch.tensor([[1.0, 0.0]]))
    assert Direction("sgd").names is None


@pytest.mark.parametrize("form", ["torch", "less"])
def test_a_block_is_the_same_coordinates_of_the_whole(form):
    direction = Direction(form, MOMENTS)
    assert direction.names == {"w"}
    whole = direction.apply_("w", 0, GRADIENT.clone())
    assert torch.equal(direction.apply_("w", 1, GRADIENT[:, 1:].clone()), whole[:, 1:])


def test_bad_arguments():
    with pytest.raises(ValueError, match="'torch' needs the checkpoint's moments"):
        Direction("torch")
