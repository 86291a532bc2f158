"""A document with the truth about each of its words.

Feature labels that a person wrote down by eye are opinions; here each word is labelled by the
rule that produced it, so a claim about a feature ("fires inside quotes") can be checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

Message = dict[str, str]

_WORD = re.compile(r"<\|\w+\|>|\n|[^\s<]+")


@dataclass(frozen=True, slots=True)
class WordLabel:
    """What is true of one word, which is also one token.

    Attributes:
        word: the word itself, a punctuation mark, a newline or a chat marker.
        role: its part in the sentence, such as `det`, `verb`, `subject` or `quote_open`.
        topic: the topic that the word belongs to, for words of a topic.
        number: `sg` or `pl` where the word has a number.
        name: the name, where the word is one.
        quoted: whether it stands between quotation marks (the marks themselves do not).
        copy_of: index of the earlier word that this one has to repeat.
        harmful: whether it is one of the words which together make a request harmful.
        speaker: `system`, `user` or `assistant` inside a chat message.
    """

    word: str
    role: str
    topic: str | None = None
    number: str | None = None
    name: str | None = None
    quoted: bool = False
    copy_of: int | None = None
    harmful: bool = False
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the grammar.

    Attributes:
        kind: `prose`, `quote`, `ioi`, `copy` or `chat`.
        text: the text as the model reads it, chat markers included.
        messages: the turns of a chat, `role` and `content` each; None for other kinds.
        labels: one per word of `text`, in order; `words(text)` gives the same words.
        nats: surprise of the choices behind the document, in nats.
    """

    kind: str
    text: str
    messages: list[Message] | None
    labels: list[WordLabel]
    nats: float


def words(text: str) -> list[str]:
    """The words of a text as the tokenizer will see them: markers and newlines are words too."""
    return _WORD.findall(text)


def render(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """Chat turns as text, exactly as the tokenizer's chat template writes them."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + ("<|im_start|>assistant\n" if add_generation_prompt else "")


class Page:
    """Collects labelled words while a document is being written."""

    def __init__(self, topic: str | None = None) -> None:
        self.topic = topic
        self.labels: list[WordLabel] = []
        self._quoted = False
        self._speaker: str | None = None

    def add(
        self,
        text: str,
        role: str,
        *,
        number: str | None = None,
        topical: bool = False,
        copy_of: int | None = None,
        harmful: bool = False,
    ) -> int:
        """Appends the words of `text` with one role; gives the index of the last one.

        With `copy_of`, the first word repeats that index, the second the one after it, and so on.
        """
        for offset, word in enumerate(text.split(" ")):
            self.labels.append(
                WordLabel(
                    word=word,
                    role=role,
                    topic=self.topic if topical else None,
                    number=number,
                    name=word if role.startswith("name") else None,
                    quoted=self._quoted,
                    copy_of=None if copy_of is None else copy_of + offset,
                    harmful=harmful,
                    speaker=self._speaker,
                )
            )
        return len(self.labels) - 1

    def open_quote(self) -> None:
        """Writes an opening mark; what follows is quoted."""
        self.add('"', "quote_open")
        self._quoted = True

    def close_quote(self) -> None:
        """Writes the closing mark, which is the same word as the opening one."""
        self._quoted = False
        self.add('"', "quote_close")

    def open_turn(self, speaker: str) -> int:
        """Begins a chat message; gives the index of its first word to come."""
        for word in ("<|im_start|>", speaker, "\n"):
            self.labels.append(WordLabel(word, "template"))
        self._speaker = speaker
        return len(self.labels)

    def close_turn(self, start: int) -> Message:
        """Ends the chat message whose words began at index `start`, and gives it."""
        assert self._speaker is not None
        content = " ".join(label.word for label in self.labels[start:])
        message = {"role": self._speaker, "content": content}
        self._speaker = None
        for word in ("<|im_end|>", "\n"):
            self.labels.append(WordLabel(word, "template"))
        return message

    def document(self, kind: str, nats: float, messages: list[Message] | None = None) -> Document:
        """The finished document."""
        if messages is None:
            text = " ".join(label.word for label in self.labels)
        else:
            text = render(messages)
        return Document(kind, text, messages, self.labels, nats)
