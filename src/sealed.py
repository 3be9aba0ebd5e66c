"""JSON files that carry a checksum of their content, so that a damaged number is noticed when it is read."""

import json
import zlib
from typing import Any

KEY = "crc32"


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its checksum as a last entry."""
    return {**content, KEY: checksum(content)}


def unseal(content: Any) -> Any:
    """The content without its checksum; ValueError where they do not agree, or the name of the checksum is damaged.
    What has none, as of earlier versions, is returned as it is.
    """
    if not isinstance(content, dict) or not content:
        return content
    last = KEY if KEY in content else next(reversed(content))
    rest = {name: value for name, value in content.items() if name != last}
    if (last == KEY) != (content[last] == checksum(rest)):
        raise ValueError(f"it is not what was written; whoever changed it by hand also deletes its {KEY}")
    return rest if last == KEY else content


def checksum(content: dict[str, Any]) -> int:
    """The CRC-32 of a dict as JSON, which is the same before it is written and after it is read."""
    return zlib.crc32(json.dumps(content).encode())
