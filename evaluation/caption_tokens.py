"""Captions as words: ours, and those of COCO's caption evaluation, which are the Penn Treebank's.

COCO's evaluation runs Stanford's PTBTokenizer (in Java) in lower case and drops a list of punctuation. Here its
documented rules are written as one pattern; the tests compare it with the program itself where Java is installed.
"""

from __future__ import annotations

import re

from ..runtime.bundle.tokenizer import normalise

# What COCO's evaluation drops. Brackets, whose lower-case names ("-lrb-") are not in its list, and runs such as "!!"
# stay, as they do there.
_DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_RENAMED = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "\u2026": "...",
    '"': "''",
    "\u201c": "``",
    "\u201d": "''",
    "\u2018": "`",
    "\u2019": "'",
    "\u2013": "--",
    "\u2014": "--",
    "\u00a3": "#",
    "\u20ac": "$",
    "\u00a2": "cents",
}
_APOSTROPHE = "['\u2019]"
_PARTED = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "lemme": "lem me",
    "gimme": "gim me",
}
_ABBREVIATIONS = "mr|mrs|ms|dr|prof|st|ave|blvd|rd|mt|ft|jr|sr|etc|vs|co|corp|inc|ltd|dept|jan|feb|aug|sept|oct|nov|dec"
_LETTER = r"[^\W_\d]"
_ALNUM = r"[^\W_]"
_TOKEN = re.compile(
    rf"""
      https?://\S+ | www\.\S+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | [@]\w+     # addresses and names
    | <[a-z/][^<>\s]*>                                                    # markup
    | [:;]-?[)(]                                                          # faces
    | (?:{_LETTER}\.){{2,}}(?!\w) | \b(?:{_ABBREVIATIONS})\.(?!\w) | \bno\.(?=\s*\d)
    | {_APOSTROPHE}n{_APOSTROPHE} | {_APOSTROPHE}\d0s\b
    | {_APOSTROPHE}(?:s|m|d|re|ve|ll)(?!\w)                               # the ends of it's, I'm, he'd, we're
    | n['\u2019`]t(?!\w)                                                  # the end of isn't
    | {_APOSTROPHE}t(?=(?:is|was)\b)                                      # 'tis
    | y{_APOSTROPHE}(?=all\b)
    | \b[codl]{_APOSTROPHE}{_LETTER}+\b | ma{_APOSTROPHE}am\b
    | [+-]?\d+(?:[.,:/]\d+)+ | [+-]\d+(?!\w)                              # 10:30, 3.5, 1,000, 1/2, -3
    | {_LETTER}+(?=n['\u2019`]t(?!\w))                                    # the beginning of isn't
    | {_ALNUM}+(?:[-/.&_]{_ALNUM}+)*
    | \.{{2,}} | -{{2,}} | [!?]+ | ``|''                                  # runs of one sign
    | \S
    """,
    re.VERBOSE,
)


def plain_words(text: str) -> list[str]:
    """Lower-case words of letters and digits, as our vocabularies are made of: `runtime.bundle.tokenizer.normalise`."""
    return normalise(text)


def ptb_words(text: str) -> list[str]:
    """Lower-case words as COCO's caption evaluation counts them.

    >>> ptb_words("A man's well-worn hat isn't $5.")
    ['a', 'man', "'s", 'well-worn', 'hat', 'is', "n't", '$', '5']
    """
    words = []
    for match in _TOKEN.finditer(text.lower()):
        found: str = match[0]
        token = _RENAMED.get(found, found.replace("\u2019", "'"))
        if len(token) > 1 and not token.strip(".-"):
            token = "..." if token[0] == "." else "--"
        if token not in _DROPPED:
            token = token.replace(")", "-rrb-").replace("(", "-lrb-")
            words += _PARTED.get(token, token).split()
    return words
