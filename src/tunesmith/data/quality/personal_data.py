"""What deserves a look in a text and is never changed: odd characters, secrets, personal data (PII).

A finding names the kind and the place, and shows no more than the first characters: a report about
secrets must not spread them. These are searches for patterns: they miss, and they err.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from tunesmith.data.kinds.row import Content
from tunesmith.data.quality.ledger import RowFault

# Characters that nobody sees: zero-width spaces, a byte order mark inside, directions, tags, invisible operators.
# Joiners stay out: Persian, Hindi and emoji need them.
HIDDEN = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
CONTROLS = bytes(set(range(32)) - set(b"\t\n\r")) + b"\x7f"

BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
# Two characters together that single-byte encodings have above ASCII: UTF-8 read as one of these looks so.
OLD_ENCODINGS = re.compile("[\u0080-\u00ff\u0152-\u0178\u02c6\u02dc\u2018-\u203a\u20ac\u2122\u0390-\u04ff]{2}")

SECRETS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b"),
    "an OpenAI or Anthropic key": re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a Google API key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}"),
    "a Stripe key": re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,}"),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:[^\s:/@]{3,64}@"),
}
SECRET_HINTS = ("AKIA", "ASIA", "PRIVATE KEY", "gh", "sk-", "hf_", "xox", "AIza", "_live_", "eyJ", "://")
EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
PHONE = re.compile(
    r"(?<![\w.+-])(?:(?:\+|00)[1-9]\d{0,2}[ .-]?(?:\(\d{1,5}\)[ .-]?)?\d{2,5}(?:[ .-]?\d{2,5}){1,4}"  # abroad
    r"|(?:\(0\d{2,4}\) ?|0[1-9]\d{1,3}[ /-])\d{2,5}(?:[ -]?\d{2,5}){1,3}"  # in countries that dial a 0 first
    r"|(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w-])"  # in North America
)
CARD = re.compile(r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
SOCIAL = re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b")
ADDRESS = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")
DIGIT = re.compile(r"\d\D{0,3}\d\D{0,3}\d\D{0,3}\d")


def odd_characters(content: Content) -> Iterator[RowFault]:
    """Broken encodings, hidden and control characters. Plain ASCII, most text, costs nothing."""
    for text in content.texts():
        data = text.encode("utf-8", "surrogatepass")
        if len(data) != len(data.translate(None, CONTROLS)):  # the fastest search there is
            first = next(byte for byte in data if byte in CONTROLS)
            found = f"a control character (U+{first:04X}) inside a text."
            yield RowFault("control_character", found, "It is trained on as it stands.")
        if text.isascii():
            continue
        odd = "".join(BEYOND_ASCII.findall(text))  # little, in most languages that this is slow for
        if hit := HIDDEN.search(odd):
            where = _near(text, text.index(hit.group()))
            found = f"a character that nobody sees (U+{ord(hit.group()):04X}) near {where}."
            yield RowFault("hidden_unicode", found, "It is trained on as it stands.")
        if "\ufffd" in text:
            found = f"a replacement character near {_near(text, text.index(chr(0xFFFD)))}: bytes were lost earlier."
            yield RowFault("mojibake", found, "Export the file again as UTF-8.")
        elif garbled(text):
            found = "text that looks garbled, as if read in a wrong encoding."
            yield RowFault("mojibake", found, "Export the file again as UTF-8.")


def garbled(text: str) -> bool:
    """Whether a text looks like mojibake (ftfy's judgement, asked where two characters of old encodings touch)."""
    if not OLD_ENCODINGS.search(text):
        return False
    import ftfy.badness

    return ftfy.badness.is_bad(text)


def _near(text: str, place: int) -> str:
    return repr(text[max(place - 10, 0) : place + 10])


def secrets_and_personal_data(content: Content) -> Iterator[RowFault]:
    """Secrets and personal data, one finding of each kind a row."""
    text = "\n".join(content.texts())
    if any(hint in text for hint in SECRET_HINTS):
        for name, pattern in SECRETS.items():
            if hit := pattern.search(text):
                found = f"{name} ({hit.group()[:6]}...)."
                yield RowFault("secret", found, "Revoke it, and take it out: models repeat what they learn.")
    for name in sorted(set(personal(text))):
        yield RowFault("personal_data", f"{name}.", "Ask whether the model may repeat it.")


def personal(text: str) -> Iterable[str]:
    """Kinds of personal data in a text: numbers that must check do."""
    if "@" in text and EMAIL.search(text):
        yield "an e-mail address"
    if not DIGIT.search(text):
        return
    if any(_luhn(hit.group()) for hit in CARD.finditer(text)):
        yield "a payment card's number"
    for account in [hit.group() for hit in IBAN.finditer(text) if _mod97(hit.group())]:
        yield "a bank account (IBAN)"
        text = text.replace(account, "")  # its groups of digits are no telephone number
    if SOCIAL.search(text):
        yield "a US social security number"
    if any(ip_address(hit.group()).is_global for hit in ADDRESS.finditer(text)):
        yield "an IP address"
    if any(9 <= sum(map(str.isdigit, hit.group())) <= 15 for hit in PHONE.finditer(text)):
        yield "a telephone number"


def _luhn(number: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1)."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _mod97(account: str) -> bool:
    """The check digits of an IBAN (ISO 13616)."""
    plain = account.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
