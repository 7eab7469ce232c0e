"""Golden tests: ``pytest tests/golden --rewrite`` writes the present results as the expected."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write golden results instead of comparing"
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether to write. The option exists when the golden folder is named on the command line."""
    return bool(request.config.getoption("--rewrite", default=False))
