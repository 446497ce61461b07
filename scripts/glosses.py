#!/usr/bin/env python3
"""Real sentences for scripts/embeddings.py: the definitions of WordNet's 117,000 meanings.

    scripts/glosses.py FOLDER COUNT > TEXTS.jsonl

FOLDER holds WordNet's data.noun, data.verb, data.adj and data.adv (/usr/share/wordnet with
Debian's package wordnet-base). Each line is one definition with its examples, as a JSON string;
none twice, in an order that is random and always the same.

Source: WordNet 3.0, Princeton University.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

KINDS = ("noun", "verb", "adj", "adv")


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    found = set()
    for kind in KINDS:
        for line in (Path(sys.argv[1]) / f"data.{kind}").read_text().splitlines():
            if not line.startswith("  "):  # the licence
                found.add(line.partition("|")[2].strip())
    texts = sorted(found)
    random.Random(1).shuffle(texts)
    for text in texts[: int(sys.argv[2])]:
        print(json.dumps(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
