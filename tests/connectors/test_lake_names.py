"""Where a lake may lie: odd names are read as names, and those that would be read as more are refused."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from connectors.lake import LakeLocation
from processors.errors import UsageError
from tests.app.commands import trs
from tests.small_lake import SmallLake


@pytest.mark.parametrize("name", ["x'; DROP TABLE skus; --", 'a"b`c${d}{e,f}', "\u202eevil 100% <漢>#@:"])
def test_lake_in_a_folder_with_a_hostile_name_is_read(tmp_path: Path, name: str) -> None:
    lake = SmallLake(tmp_path / name)
    lake.append(
        "sku_log",
        {"item_id": name, "item_name": name, "item_description": "d", "item_retail_price": Decimal(1), "epoch": 1},
    )
    lake.epoch("skus", 0, 1, "2024-05-20")
    told = trs("sql", "SELECT item_id, item_name FROM skus", "--format", "json", TRS_LAKE=lake.uri)
    assert told.code == 0, told.err
    assert json.loads(told.out) == [{"item_id": name, "item_name": name}]


@pytest.mark.parametrize("part", [*"[]^|*?\\\n\0", "%20"])
@pytest.mark.parametrize("place", ["s3://bucket/a{}b", "/data/a{}b"])
def test_place_of_a_lake_that_would_be_read_as_more_than_a_name_is_refused(place: str, part: str) -> None:
    with pytest.raises(UsageError, match="take for something else"):
        LakeLocation(place.format(part))
