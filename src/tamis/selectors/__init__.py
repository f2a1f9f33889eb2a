"""Which examples to take: plain functions over arrays, without a model and without input or output."""

from tamis.selectors.budget import Budget, cut_to_tokens, parse_budget
from tamis.selectors.doubly_greedy import doubly_greedy
from tamis.selectors.knn_uniform import knn_uniform
from tamis.selectors.picks import Picks, nearest_target
from tamis.selectors.random import random
from tamis.selectors.round_robin import round_robin
from tamis.selectors.top_k import top_k
from tamis.selectors.unbalanced_transport import unbalanced_transport

__all__ = [
    "Budget",
    "Picks",
    "cut_to_tokens",
    "doubly_greedy",
    "knn_uniform",
    "nearest_target",
    "parse_budget",
    "random",
    "round_robin",
    "top_k",
    "unbalanced_transport",
]
