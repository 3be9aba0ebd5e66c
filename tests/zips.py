"""Zips for tests, with the fault of the MulT authors' archive."""

import io
import struct
import zipfile

CENTRAL_SIZE, LOCAL_SIZE = 24, 22  # where the uncompressed size stands in the two headers of a member


def make_zip(members, compression=zipfile.ZIP_DEFLATED):
    """The bytes of a zip of {name: content}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def wrap_sizes(content, modulus):
    """The zip with the size of every member stored modulo something."""
    content = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members, central = archive.infolist(), archive.start_dir
    for member in members:
        for at in (central + CENTRAL_SIZE, member.header_offset + LOCAL_SIZE):
            struct.pack_into("<I", content, at, member.file_size % modulus)
        name, extra, comment = struct.unpack_from("<HHH", content, central + 28)
        central += 46 + name + extra + comment
    return bytes(content)
