"""What the fixtures take from the environment."""

from pathlib import Path

import pytest

from tests.conftest import kept_home


@pytest.mark.parametrize(
    ("environment", "home"),
    [({}, None), ({"TRS_TEST_HOME": ""}, None), ({"TRS_TEST_HOME": "/kept"}, Path("/kept"))],
)
def test_kept_home_is_a_folder_that_is_named_and_an_empty_name_names_none(
    environment: dict[str, str], home: Path | None
) -> None:
    assert kept_home(environment) == home
