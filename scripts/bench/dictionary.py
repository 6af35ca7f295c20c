"""Dictionaries of types that mean nothing, as models of random weights have them."""

from fairseq.data import Dictionary


def dictionary(size):
    """A dictionary of ``size`` types, the special ones included."""
    words = Dictionary()
    for i in range(size - len(words)):
        words.add_symbol(f"w{i}")
    return words
