"""Rewrite scripts for bert4keras 0.11.5 and before, on Keras 2, for this library.

    python -m bert4keras.migrate train.py          # edits it; the original is kept as train.py.orig
    python -m bert4keras.migrate --diff scripts/   # prints what would change

rules      what changes, as tables
names      which full name a piece of a script means
rewriting  migrate: from text to text
files      migrate_files: reading, writing, diffs

`docs/migration.md` lists every difference.
"""

from bert4keras.migrate.files import main, migrate_files
from bert4keras.migrate.rewriting import migrate

__all__ = ["main", "migrate", "migrate_files"]
