"""Which examples to take: plain functions over arrays, without a model and without input or output."""

from tamis.selectors.budget import Budget, cut_to_tokens, parse_budget
from tamis.selectors.doubly_greedy import doubly_greedy
from tamis.selectors.facility_location import facility_location
from tamis.selectors.herding import herding
from tamis.selectors.k_center import k_center
from tamis.selectors.knn_kde import knn_kde
from tamis.selectors.knn_uniform import knn_uniform
from tamis.selectors.matching_pursuit import matching_pursuit
from tamis.selectors.picks import Picks, nearest_target
from tamis.selectors.random import random
from tamis.selectors.round_robin import round_robin
from tamis.selectors.rows import Rows
from tamis.selectors.tagcos import tagcos
from tamis.selectors.top_k import top_k
from tamis.selectors.unbalanced_transport import unbalanced_transport

__all__ = [
    "Budget",
    "Picks",
    "Rows",
    "cut_to_tokens",
    "doubly_greedy",
    "facility_location",
    "herding",
    "k_center",
    "knn_kde",
    "knn_uniform",
    "matching_pursuit",
    "nearest_target",
    "parse_budget",
    "random",
    "round_robin",
    "tagcos",
    "top_k",
    "unbalanced_transport",
]
