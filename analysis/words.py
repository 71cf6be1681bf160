"""Whether two answers mean almost the same: forms of a word, synonyms, broader and narrower words."""

from functools import lru_cache
from pathlib import Path

import snowballstemmer

DEBIAN = "/usr/share/wordnet"  # of the package wordnet-base
_LITTLE = {"a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "it", "is", "no", "not", "yes"}
_SENSES = 3  # of each word class, the most usual ones: "cat" is also a whip and a gossip


class Words:
    """
    Args:
        wordnet (`str`, *optional*): folder with WordNet's database files; Debian's by default. Where there is none,
            words are compared by their forms only.

    Raises:
        ValueError: `wordnet` is given and not such a folder.
    """

    def __init__(self, wordnet=None):
        folder = Path(wordnet or DEBIAN)
        there = (folder / "data.noun").is_file()
        if wordnet and not there:
            raise ValueError(f"{wordnet} holds no WordNet: no data.noun in it")
        self.classes = [WordClass(folder, name) for name in ("noun", "verb", "adj")] if there else []
        stemmer = snowballstemmer.stemmer("english")
        self._stem = lru_cache(maxsize=None)(stemmer.stemWord)
        self._senses = lru_cache(maxsize=None)(self._look_up)

    def near(self, given, expected):
        """
        Args:
            given, expected (`str`): normalised answers.

        Returns:
            `bool`: they differ, but are forms of the same word, share a word, are numbers one apart, or WordNet has
            them as synonyms or one as the direct hypernym of the other.
        """
        if given == expected or not given or not expected:
            return False
        if given.isdecimal() and expected.isdecimal():
            return abs(int(given) - int(expected)) == 1
        stems = [{self._stem(word) for word in answer.split() if word not in _LITTLE} for answer in (given, expected)]
        if stems[0] & stems[1]:
            return True
        (given, above_given), (expected, above_expected) = self._senses(given), self._senses(expected)
        return bool(given & expected or given & above_expected or expected & above_given)

    def _look_up(self, answer):
        """The synsets of an answer, and those one step above them."""
        found, above = set(), set()
        for word_class in self.classes:
            for offset in word_class.synsets(answer):
                found.add((word_class.name, offset))
                above |= {(word_class.name, hypernym) for hypernym in word_class.hypernyms(offset)}
        return found, above


class WordClass:
    """
    One of WordNet's word classes, read from its database files as wndb(5WN) and morphy(7WN) describe them.

    Args:
        folder (`Path`), name (`str`): noun, verb or adj.
    """

    # Endings that an inflected word may have, and what its base form has in their place.
    ENDINGS = {
        "noun": "s: ses:s xes:x zes:z ches:ch shes:sh men:man ies:y",
        "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
        "adj": "er: est: er:e est:e",
    }

    def __init__(self, folder, name):
        self.name, self.index, self.bases = name, {}, {}
        for line in (folder / f"index.{name}").read_text(encoding="latin-1").splitlines():
            if not line.startswith(" "):  # the licence
                fields = line.split()
                self.index[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
        for line in (folder / f"{name}.exc").read_text(encoding="latin-1").splitlines():
            inflected, *bases = line.split()
            self.bases[inflected] = bases
        self.data = (folder / f"data.{name}").read_bytes()

    def synsets(self, word):
        """Offsets of its most usual senses, and of those of its base forms where it may be inflected ("men")."""
        word = word.lower().strip().replace(" ", "_")
        endings = (pair.split(":") for pair in self.ENDINGS[self.name].split())
        bases = [word[: -len(ending)] + base for ending, base in endings if word.endswith(ending)]
        forms = dict.fromkeys([word, *self.bases.get(word, ()), *bases])
        return [offset for form in forms for offset in self.index.get(form, ())[:_SENSES]]

    def hypernyms(self, offset):
        """Offsets of the synsets right above this one."""
        fields = self.data[offset : self.data.index(b"\n", offset)].decode("latin-1").split(" | ")[0].split()
        pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]
        return [int(to) for symbol, to in zip(pointers[::4], pointers[1::4]) if symbol in ("@", "@i")]
