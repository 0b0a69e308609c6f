"""The notation of a graph's text: names, types and tokens."""

from __future__ import annotations

import json
import re

import torch

from chipfit.ir.graph import Arg, TensorType, Value

SHORT = {
    torch.bfloat16: "bf16",
    torch.bool: "bool",
    torch.float16: "f16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}
LONG = {short: dtype for dtype, short in SHORT.items()}
WORDS: dict[str, Arg] = {"none": None, "true": True, "false": False}
UNSAFE = re.compile(r"[\s,()\[\]=:#%\"]")
ESCAPED = re.compile(r"%([0-9a-f]+);")
TOKEN = re.compile(
    r"""\s*(?: (?P<comment>\#.*) | (?P<name>[%@][^\s,()\[\]=:\#"]*) | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>-?(?:\d[\d.]*(?:e[+-]?\d+)?|inf|nan)\b) | (?P<word>\w[\w.]*) | (?P<mark>[\[\](),=:]) )""",
    re.VERBOSE,
)


def escape(name: str) -> str:
    """The name with the characters that would end it as `%`, their code point in hexadecimal, `;`."""
    return UNSAFE.sub(lambda match: f"%{ord(match[0]):x};", name)


def unescape(name: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


def dtype_text(dtype: torch.dtype) -> str:
    return SHORT.get(dtype, str(dtype).removeprefix("torch."))


def type_text(tensor: TensorType) -> str:
    return f"{dtype_text(tensor.dtype)}[{','.join(map(str, tensor.shape))}]"


class Line:
    """One line as tokens, read from the left."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.place = text, number, 0

    def peek(self) -> str:
        """The next token, empty at the end."""
        match = TOKEN.match(self.text, self.place)
        return match[0].strip() if match else ""

    def next(self) -> str:
        match = TOKEN.match(self.text, self.place)
        if match is None:
            raise self.error("more text")
        self.place = match.end()
        return match[0].strip()

    def take(self, *expected: str) -> str:
        token = self.next()
        if token not in expected:
            raise self.error(" or ".join(expected))
        return token

    def skip(self, token: str) -> bool:
        """Takes `token` if it comes next."""
        if self.peek() != token:
            return False
        self.next()
        return True

    def name(self) -> str:
        token = self.next()
        if not token or token[0] not in "%@":
            raise self.error("a name")
        return unescape(token[1:])

    def type(self) -> TensorType:
        dtype = self.dtype(self.next())
        self.take("[")
        sizes = []
        while not self.skip("]"):
            sizes.append(int(self.next()))
            self.skip(",")
        return TensorType(tuple(sizes), dtype)

    def dtype(self, word: str) -> torch.dtype:
        found = LONG.get(word) or getattr(torch, word, None)
        if not isinstance(found, torch.dtype):
            raise self.error("a dtype")
        return found

    def literal(self, token: str) -> Arg:
        """A number, a string, a dtype, a memory format, true, false or none."""
        if token[0] == '"':
            return str(json.loads(token))
        if token in WORDS:
            return WORDS[token]
        if re.fullmatch(r"-?\d+", token):
            return int(token)
        if token.lstrip("-") in ("inf", "nan") or token.lstrip("-")[:1].isdigit():
            return float(token)
        named = getattr(torch, token, None)
        return named if isinstance(named, torch.memory_format) else self.dtype(token)

    def declared(self) -> Value:
        name = self.name()
        self.take(":")
        return Value(name, self.type())

    def declarations(self, end: str) -> tuple[Value, ...]:
        values = []
        while not self.skip(end):
            values.append(self.declared())
            self.skip(",")
        return tuple(values)

    def error(self, expected: str) -> ValueError:
        return ValueError(f"Line {self.number} of the graph's text should have {expected} at column {self.place + 1}.")
