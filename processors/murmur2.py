"""Where Kafka's Java clients, and our producers, put a key: MurmurHash2 (32 bits), of many keys at once.

Source: org.apache.kafka.common.utils.Utils.murmur2 and BuiltInPartitioner.partitionForKey of Kafka's clients.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)
Words = npt.NDArray[np.uint32]


def partitions_of(keys: pa.LargeBinaryArray, partitions: int) -> npt.NDArray[np.int32]:
    """The partition of each key among so many; no key may be null."""
    offsets = np.frombuffer(keys.buffers()[1], np.int64)[keys.offset : keys.offset + len(keys) + 1]
    data = np.frombuffer(keys.buffers()[2] or b"", np.uint8)
    sizes = np.diff(offsets)
    found = np.empty(len(keys), np.int32)
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        rows = data[offsets[same][:, None] + np.arange(size)]
        found[same] = (_hash(rows) & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)
    return found


def _hash(keys: npt.NDArray[np.uint8]) -> Words:
    """The hashes of keys of one length, a row each."""
    count, size = keys.shape
    whole = size // 4 * 4
    h = np.full(count, _SEED ^ size, np.uint32)
    for word in np.ascontiguousarray(keys[:, :whole]).view("<u4").T:
        k = word * _M
        k = (k ^ (k >> np.uint32(24))) * _M
        h = (h * _M) ^ k
    if size > whole:
        for place, byte in enumerate(keys[:, whole:].T):
            h ^= byte.astype(np.uint32) << np.uint32(8 * place)
        h *= _M
    h = (h ^ (h >> np.uint32(13))) * _M
    return h ^ (h >> np.uint32(15))
