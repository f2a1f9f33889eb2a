"""The skills by hand-worked answers, and the law that wording does not give a skill away."""

import re

import pytest

from tamis.testbed import HELD_OUT_TOPICS, SKILLS, TOPICS

ANSWERS = {
    "reverse": "fox, cow, elk, dog, bee",
    "sort": "bee, cow, dog, elk, fox",
    "rotate": "dog, elk, cow, fox, bee",
    "skip": "bee, elk, fox",
    "double": "bee bee, dog dog, elk elk, cow cow, fox fox",
    "pair": "bee-dog, elk-cow, fox",
    "capitals": "BEE, DOG, ELK, COW, FOX",
    "initials": "b, d, e, c, f",
    "spell": "b-e-e",
    "number": "1 bee, 2 dog, 3 elk, 4 cow, 5 fox",
}


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("skill", SKILLS)
def test_answers(skill: str) -> None:
    assert SKILLS[skill].answer(["bee", "dog", "elk", "cow", "fox"]) == ANSWERS[skill]


def test_topics_share_no_word() -> None:
    words = [word for topic in (*TOPICS.values(), *HELD_OUT_TOPICS.values()) for word in topic]
    assert len(words) == len(set(words)) == 16 * (len(TOPICS) + len(HELD_OUT_TOPICS))


@pytest.mark.parametrize("skill", SKILLS)
def test_no_word_of_a_target_request_is_most_used_by_its_own_skill(skill: str) -> None:
    def n_uses(name: str, word: str) -> int:
        return sum(word in words_of(request) for request in SKILLS[name].pool_requests)

    for request in SKILLS[skill].target_requests:
        for word in words_of(request):
            most = max(n_uses(other, word) for other in SKILLS if other != skill)
            assert n_uses(skill, word) <= most, f"{word!r} in {request!r} gives {skill} away"


def test_requests_are_all_different_and_none_names_a_topic_word() -> None:
    requests = [r for skill in SKILLS.values() for r in (*skill.pool_requests, *skill.target_requests)]
    topic_words = {word for topic in (TOPICS | HELD_OUT_TOPICS).values() for word in topic}
    assert len(requests) == len(set(requests))
    assert not [r for r in requests if words_of(r) & topic_words]
    assert {(len(s.pool_requests), len(s.target_requests)) for s in SKILLS.values()} == {(6, 3)}
