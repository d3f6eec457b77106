"""Rewrite scripts for bert4keras 0.11.5 and before, on Keras 2, for this library.

    python -m bert4keras.migrate train.py serve.py   # edits them; the originals are kept as *.orig
    python -m bert4keras.migrate --diff scripts/     # prints what would change

rules       what changes, as tables
command     the command line: what is printed
files       which files are scripts, and what becomes of them
text        reading in any encoding, writing without losing anything
project     the modules that scripts import from each other
rewriting   migrate: from text to text; walks a script and asks the others
patterns    what functions did that made gradients
gradients   what replaces them
sessions    sessions and graphs, which go
classes     callbacks and layers of one's own
parts       what those who rewrite a script share
library     what the installed packages have
survey      what has to be known before: models, star imports
imports     what is imported, what has to be
references  names and attributes
calls       calls of what is imported, of methods, as statements
arguments   what happens to their arguments, whatever the script
metrics     `add_metric` of layers
comments    what is left to a person
names       which full name a piece of a script means, and what it is today
scopes      what binds the names of a script
edits       changes of a text at places
source      a script as text and as syntax tree

`docs/migration.md` lists every difference.
"""

from bert4keras.migrate.command import main, migrate_files
from bert4keras.migrate.rewriting import migrate

__all__ = ["main", "migrate", "migrate_files"]
