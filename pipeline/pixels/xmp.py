"""Small changes to an XMP packet, in its text: what is not asked for stays as it was, to the byte.

Sources: XMP specification (ISO 16684-1), part 3 for the two parts of a JPEG's; IPTC Photo Metadata 2023, digital source type.
"""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

ENHANCED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""What a neural codec hands out: a photo in part of whose detail a model had a hand."""
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_PHOTOARK = "urn:photoark:1.0/"
_END_OF_RDF = re.compile(rb"</(?:[\w.-]+:)?RDF\s*>")
_ABOUT = re.compile(rb"""[\w.-]+:about\s*=\s*("[^"]*"|'[^']*')""")
_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|\s*>\s*))[2-8]""")
_SOURCE_TYPE = re.compile(rb"""(:DigitalSourceType\s*(?:=\s*["']|[\w.-]+:resource\s*=\s*["']|>\s*))[^"'<]*""")
_EXTENDED = re.compile(rb"""(HasExtendedXMP\s*(?:=\s*["']|>\s*))([0-9A-Fa-f]{32})""")
_EXTENDED_PROPERTY = re.compile(
    rb"""\s[\w.-]+:HasExtendedXMP\s*=\s*(?:"[^"]*"|'[^']*')|<([\w.-]+:HasExtendedXMP)\s*>[^<]*</\1\s*>"""
)
_NOTE = b"http://ns.adobe.com/xmp/note/"
_WRAPPER = re.compile(rb"<\?xpacket[^>]*\?>")
_PADDING = re.compile(rb"\s+(?=<\?xpacket end=)")
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta>'
    b'<?xpacket end="w"?>'
)


def upright(xmp: bytes) -> bytes:
    """The same packet with orientation 1, where it holds one."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def marked(xmp: bytes | None, *, codec: str, model: str) -> bytes:
    """The packet, or a new one, that says that a neural codec made the pixels, which one, and with which weights.

    A digital source type that is there gives way; a packet that is no XMP does too.
    """
    source_type = ENHANCED.encode()
    if xmp and _root(xmp) is not None and _END_OF_RDF.search(xmp):
        packet, num_found = _SOURCE_TYPE.subn(rb"\g<1>" + source_type, xmp)
        if _root(packet) is None:
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
    return _PADDING.sub(lambda padding: padding[0][min(len(said_there), len(padding[0])) :], packet)


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
    return packet if _root(packet) is not None else None


def divided(xmp: bytes) -> tuple[bytes, bytes] | None:
    """A packet as the two parts of a JPEG's, where one segment is too short for it; None where it cannot be read.

    All of it goes into the second part, which readers join with the first.
    """
    extended = _WRAPPER.sub(b"", xmp).strip(b"\0 \r\n\t")
    if _root(extended) is None:
        return None
    reference = b'<rdf:Description rdf:about="" xmlns:xmpNote="%s" xmpNote:HasExtendedXMP="%s"/>'
    packet = _EMPTY.replace(b"</rdf:RDF>", reference % (_NOTE, b"0" * 32) + b"</rdf:RDF>")
    return referring_to(packet, extended), extended


def _root(packet: bytes) -> ElementTree.Element | None:
    """The parsed packet; None where it is no XML, or more than XMP may be: entities could grow without bound."""
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return None
    try:
        return ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
