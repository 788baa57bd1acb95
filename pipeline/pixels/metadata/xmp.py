"""Small changes to an XMP packet, in its text: what is not asked for stays as it was, to the byte.

Sources: XMP specification (ISO 16684-1), part 3 for the two parts of a JPEG's; IPTC Photo Metadata 2023, digital source type.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

ENHANCED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""What a neural codec hands out: a photo in part of whose detail a model had a hand."""
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_PHOTOARK = "urn:photoark:1.0/"
_END_OF_RDF = re.compile(rb"</(?:[\w.-]+:)?RDF\s*>")
_ABOUT = re.compile(rb"""(?<![\w.-])[\w.-]{1,64}:about\s*=\s*("[^"]*"|'[^']*')""")
_TIFF_PREFIX = re.compile(rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/tiff/1\.0/["']""")
_ORIENTATION_IN_DAMAGE = re.compile(rb"""(tiff:Orientation(?:="|>))[0-9]""")
"""What Pillow finds even in a packet that is no XML."""
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"),
)  # fmt: skip
_DECLARED = re.compile(rb"""(<\?xml\b[^>]*?)\s+encoding\s*=\s*(?:"[^"]*"|'[^']*')""")
_SOURCE_TYPE = re.compile(rb"""(:DigitalSourceType\s*(?:=\s*["']|[\w.-]+:resource\s*=\s*["']|>\s*))[^"'<]*""")
_EXTENDED = re.compile(rb"""(HasExtendedXMP\s*(?:=\s*["']|>\s*))([0-9A-Fa-f]{32})""")
_EXTENDED_PROPERTY = re.compile(
    rb"""\s[\w.-]+:HasExtendedXMP\s*=\s*(?:"[^"]*"|'[^']*')|<([\w.-]+:HasExtendedXMP)\s*>[^<]*</\1\s*>"""
)
_NOTE = b"http://ns.adobe.com/xmp/note/"
_WRAPPER = re.compile(rb"<\?xpacket[^>]*\?>")
_END_OF_PACKET = b"<?xpacket end="
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta>'
    b'<?xpacket end="w"?>'
)


def upright(xmp: bytes) -> bytes:
    """The same packet with orientation 1, where it holds one, under whatever prefix and in whatever encoding."""
    encoding = _encoding_of(xmp)
    text = xmp.decode(encoding).encode() if encoding else xmp
    patched = text
    for prefix in {b"tiff", *_TIFF_PREFIX.findall(text)}:
        name = re.escape(prefix) + rb":Orientation"
        patched = re.sub(rb"""(\s%s\s*=\s*)(?:"[^"]*"|'[^']*')""" % name, rb'\g<1>"1"', patched)
        patched = re.sub(rb"(<%s(?:\s[^<>]*)?(?<!/)>)[^<]*(</%s\s*>)" % (name, name), rb"\g<1>1\g<2>", patched)
    patched = _ORIENTATION_IN_DAMAGE.sub(rb"\g<1>1", patched)
    if patched == text:
        return xmp
    return patched.decode().encode(encoding) if encoding else patched


def can_be_marked(xmp: bytes) -> bool:
    """Whether `marked` adds to a packet, rather than put another one in its place."""
    packet = _in_utf8(xmp)
    return _is_xml(packet) and _END_OF_RDF.search(packet) is not None


def marked(xmp: bytes | None, *, codec: str, model: str) -> bytes:
    """The packet, or a new one, that says that a neural codec made the pixels, which one, and with which weights.

    A digital source type that is there gives way; a packet that is no XMP does too.
    """
    source_type = ENHANCED.encode()
    if xmp and can_be_marked(xmp):
        xmp = _in_utf8(xmp)
        packet, num_found = _SOURCE_TYPE.subn(rb"\g<1>" + source_type, xmp)
        if not _is_xml(packet):
            packet, num_found = xmp, 0
    else:
        packet, num_found = _EMPTY, 0
    about = match[1] if (match := _ABOUT.search(packet)) else b'""'
    said = [
        b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" rdf:about=' + about,
        b' xmlns:photoark="%s"' % _PHOTOARK.encode(),
        b" photoark:Codec=%s photoark:Model=%s" % (quoteattr(codec).encode(), quoteattr(model).encode()),
    ]
    if not num_found:
        said.append(b' xmlns:Iptc4xmpExt="%s" Iptc4xmpExt:DigitalSourceType="%s"' % (_IPTC_EXT.encode(), source_type))
    at = [match.start() for match in _END_OF_RDF.finditer(packet)][-1]
    said_there = b"<rdf:Description" + b"".join(said) + b"/>"
    packet = packet[:at] + said_there + packet[at:]
    # The white space before the end is there to be written into: a JPEG's packet may be as long as its segment allows.
    before, mark, behind = packet.rpartition(_END_OF_PACKET)
    padding = len(before) - len(before.rstrip())
    return before[: len(before) - min(len(said_there), padding)] + mark + behind


def extended_digest(xmp: bytes) -> bytes | None:
    """MD5, 32 digits, of the second part that the packet of a JPEG refers to."""
    return match[2].upper() if (match := _EXTENDED.search(xmp)) else None


def referring_to(xmp: bytes, extended: bytes) -> bytes:
    """The packet, which refers to a second part, as one that refers to `extended`."""
    digest = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()
    return _EXTENDED.sub(rb"\g<1>" + digest, xmp)


def joined(xmp: bytes, extended: bytes) -> bytes | None:
    """One packet of the two parts of a JPEG's, for a file that can hold only one; None where they cannot be joined."""
    inner = re.search(rb"<(?:[\w.-]+:)?RDF\b[^>]*>(.*)</(?:[\w.-]+:)?RDF\s*>", extended, re.DOTALL)
    ends = [match.start() for match in _END_OF_RDF.finditer(xmp)]
    if inner is None or not ends:
        return None
    packet = _EXTENDED_PROPERTY.sub(b"", xmp[: ends[-1]] + inner[1] + xmp[ends[-1] :])
    return packet if _is_xml(packet) else None


def divided(xmp: bytes) -> tuple[bytes, bytes] | None:
    """A packet as the two parts of a JPEG's, where one segment is too short for it; None where it cannot be read.

    All of it goes into the second part, which readers join with the first.
    """
    extended = _WRAPPER.sub(b"", xmp).strip(b"\0 \r\n\t")
    if not _is_xml(extended):
        return None
    reference = b'<rdf:Description rdf:about="" xmlns:xmpNote="%s" xmpNote:HasExtendedXMP="%s"/>'
    packet = _EMPTY.replace(b"</rdf:RDF>", reference % (_NOTE, b"0" * 32) + b"</rdf:RDF>")
    return referring_to(packet, extended), extended


def _encoding_of(xmp: bytes) -> str | None:
    """UTF-16 or UTF-32, by the first bytes; None of UTF-8, and of what is damaged."""
    encoding = next((encoding for start, encoding in _ENCODINGS if xmp.startswith(start)), None)
    try:
        xmp.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        return None
    return encoding


def _in_utf8(xmp: bytes) -> bytes:
    """The same packet in UTF-8, as everything here expects it."""
    if (encoding := _encoding_of(xmp)) is None:
        return xmp
    return _DECLARED.sub(rb"\g<1>", xmp.decode(encoding).removeprefix("\ufeff").encode())


def _is_xml(packet: bytes) -> bool:
    """Whether it is XML, and no more than XMP may be: entities could grow without bound."""
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return False
    try:
        expat.ParserCreate(namespace_separator=" ").Parse(packet.strip(b"\0 \r\n\t"), True)
    except (expat.ExpatError, ValueError, LookupError):
        return False
    return True
