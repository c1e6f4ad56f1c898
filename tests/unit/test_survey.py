"""What is listed before the first file goes: as much as the keys need, and no more of the bucket."""

from __future__ import annotations

import pytest

from syncagent.core.settings import Carrier, SendAddress
from syncagent.docks.survey import prefix_of


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("", "camera/a/"),
        ("{system_id}/{relative_path}", "field-7/"),
        ("/all/{system_id}/{year}/{file_name}", "all/field-7/"),
        ("all/{file_name}", "all/"),
        ("img_{file_name}", "img_"),
        ("{year}/{system_id}/{file_name}", ""),
    ],
)
def test_the_prefix_is_all_that_every_key_of_the_address_begins_with(template: str, prefix: str) -> None:
    carrier = Carrier(name="c", path="camera", system_id="field-7", default_cloud_path=template)
    address = SendAddress(
        name="a",
        configured_name="a",
        message_type="image_info",
        carrier=carrier,
        duration="on_change",
        sub_path="a",
    )
    assert prefix_of(carrier, address) == prefix
