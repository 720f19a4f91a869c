"""Text in pieces: what stands between documents, and where a piece may be cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

END = "\0"  # behind each document in a piece of text: no text holds a NUL
# What \s matches in GPT-2's pattern. (To Python, \x1c to \x1f are white space too.)
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def parts_between_words(text: str, size: int) -> Iterator[str]:
    """Cut a text, where `cut_between_words` may, into parts of about `size` characters."""
    begin, at = 0, 0
    while (at := text.find(" ", max(at + 1, begin + size))) >= 0:
        end = at
        while end > begin and text[end - 1] in WHITE_SPACE:
            end -= 1
        if end > begin:
            yield text[begin:end]
            begin = end
    if begin < len(text):
        yield text[begin:]


def cut_between_words(pieces: Iterable[str], of_documents: bool = False) -> Iterator[str]:
    """Cut a text anew, only between a visible character and white space after it, and where
    a document ends.

    GPT-2's pattern never matches across such a place, and decides what stands before it without
    looking past it, so no merge is lost.
    """
    rest = ""
    for piece in pieces:
        rest += piece
        space = max(rest.rfind(" "), rest.rfind("\n"))
        at = len(rest[: space + 1].rstrip(WHITE_SPACE))
        if of_documents:
            at = max(at, rest.rfind(END) + 1)
        if at > 0:
            yield rest[:at]
            rest = rest[at:]
    if rest:
        yield rest
