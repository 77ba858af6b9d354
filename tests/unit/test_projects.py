"""One idea of what a project is and what lies below it, for budgets, rights, secrets and lists."""

from __future__ import annotations

import pytest

from bursar.projects import is_within, problem_of


@pytest.mark.parametrize(
    ("path", "root", "within"),
    [
        ("nlp", "nlp", True),
        ("nlp/deep", "nlp", True),
        ("nlp/deep/er", "nlp/deep", True),
        ("NLP/Deep", "nlp", True),
        ("nlp/deep", "NLP", True),
        ("nlp-two", "nlp", False),
        ("nlp", "nlp/deep", False),
        ("vision", "nlp", False),
        ("anything/at/all", "", True),
    ],
)
def test_a_project_is_within_itself_and_what_is_above_it(path: str, root: str, within: bool) -> None:
    assert is_within(path, root) is within


@pytest.mark.parametrize("path", ["a", "0", "nlp/finetune", "A.b_c-d/e", "a/b/c/d/e/f/g/h", "x" * 200])
def test_a_good_path_has_no_problem(path: str) -> None:
    assert problem_of(path) == ""


def test_an_empty_path_is_a_problem() -> None:
    assert problem_of("") == "it is empty"
