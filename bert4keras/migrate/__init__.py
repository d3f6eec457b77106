"""Rewrite scripts for bert4keras 0.11.5 and before, on Keras 2, for this library.

    python -m bert4keras.migrate train.py          # edits it; the original is kept as train.py.orig
    python -m bert4keras.migrate --diff scripts/   # prints what would change

rules       what changes, as tables
files       migrate_files: reading, writing, diffs
rewriting   migrate: from text to text; walks a script and asks the others
survey      what has to be known before: models, star imports, files
imports     what is imported, what has to be
references  names and attributes
calls       calls of what is imported, of methods, as statements
arguments   what happens to their arguments, whatever the script
metrics     `add_metric` of layers
comments    what is left to a person
names       which full name a piece of a script means, and what it is today
syntax      pieces of syntax

`docs/migration.md` lists every difference.
"""

import importlib.util

if importlib.util.find_spec("libcst") is None:
    raise ImportError(
        'bert4keras.migrate needs libcst: run pip install "bert4keras[migrate]" and start again'
    )

from bert4keras.migrate.files import main, migrate_files
from bert4keras.migrate.rewriting import migrate

__all__ = ["main", "migrate", "migrate_files"]
