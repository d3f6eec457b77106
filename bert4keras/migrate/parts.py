"""The base class of the rewriters of a script."""

from dataclasses import dataclass

from bert4keras.migrate.arguments import Arguments
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.metrics import Metrics
from bert4keras.migrate.names import Names
from bert4keras.migrate.source import Source
from bert4keras.migrate.survey import Survey


@dataclass(frozen=True)
class Parts:
    """A script with the facts about it, and the collections of its changes."""

    source: Source
    survey: Survey
    imports: Imports
    comments: Comments
    edits: Edits
    metrics: Metrics


class Rewriter:
    """Base class of rewriters of one kind of code."""

    def __init__(self, parts: Parts):
        self.source = parts.source
        self.survey = parts.survey
        self.names: Names = parts.survey.names
        self.imports = parts.imports
        self.comments = parts.comments
        self.edits = parts.edits
        self.metrics = parts.metrics
        self.arguments = Arguments(parts.source, parts.edits)
