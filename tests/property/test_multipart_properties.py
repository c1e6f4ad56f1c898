"""Whatever a file's size and whatever is wanted: parts that S3 takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncagent.edges.multipart import part_size

MIB = 1024 * 1024
LARGEST_BYTES = 5 * 1024**4  # an object
LARGEST_PART_BYTES = 5 * 1024**3


@given(
    st.one_of(st.integers(1, LARGEST_BYTES), st.integers(10_000 * 5 * MIB - 5, 10_000 * 5 * MIB + 5)),
    st.integers(1, LARGEST_PART_BYTES),
)
def test_every_size_is_cut_into_parts_within_the_limits_of_s3(size_bytes: int, wanted_bytes: int) -> None:
    part_bytes = part_size(size_bytes, wanted_bytes=wanted_bytes)
    assert 5 * MIB <= part_bytes <= LARGEST_PART_BYTES
    assert -(-size_bytes // part_bytes) <= 10_000
    if wanted_bytes >= 5 * MIB and -(-size_bytes // wanted_bytes) <= 10_000:
        assert part_bytes <= wanted_bytes + MIB
