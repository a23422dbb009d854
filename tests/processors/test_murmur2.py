"""Keys go where Kafka's default partitioner puts them."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from processors.murmur2 import partitions_of
from tests.murmur2 import murmur2


@given(
    keys=st.lists(st.binary(max_size=40), max_size=30), partitions=st.integers(1, 2**31 - 1), skipped=st.integers(0, 3)
)
def test_partitions_are_those_of_the_default_partitioner(keys: list[bytes], partitions: int, skipped: int) -> None:
    array = pa.array([b"before"] * skipped + keys, pa.large_binary())[skipped:]
    assert partitions_of(array, partitions).tolist() == [murmur2(key) % partitions for key in keys]
